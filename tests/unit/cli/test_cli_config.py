"""The user's config file: where it is looked for, what is wrong with it, what in it is secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ml_intern_cli.cli.config import Config, config_path, load_config
from ml_intern_cli.cli.settings import load_settings
from ml_intern_cli.errors import InvalidInput

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "config.md"
SERVER = '[mcp.tracker]\ncommand = ["tracker-mcp"]\n'


def write(text: str, *, mode: int = 0o600) -> Path:
    path = Path.home() / ".config" / "ml-intern" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def load(text: str, **environment: str) -> Config:
    write(text)
    return load_config(environment)


def problems(text: str) -> list[str]:
    path = write(text)
    with pytest.raises(InvalidInput) as refused:
        load_config({})
    return [line.removeprefix(f"{path}: ") for line in refused.value.message.splitlines()]


def test_without_a_file_everything_has_its_default():
    config = load_config({})
    assert config.path == Path.home() / ".config" / "ml-intern" / "config.toml"
    assert config.model.anthropic is None
    assert config.sandbox.wall == "auto"
    assert not config.sandbox.allow_unsandboxed
    assert not config.mcp
    assert not config.prices
    assert not config.warnings


def test_the_example_in_the_documentation_is_read_in_full():
    text = DOCUMENTATION.read_text(encoding="utf-8")
    config = load(text.split("```toml\n")[1].split("```")[0])
    assert config.model.effort == "high"
    assert set(config.prices["my-tuned-model"]) == {"input", "output", "cache_read", "cache_write"}
    assert config.mcp["github"].pass_env == ("GITHUB_TOKEN",)
    assert config.mcp["tracker"].headers == {"Authorization": "Bearer write-the-token-here"}
    assert not config.mcp["notes"].enabled
    assert config.sandbox.wall == "docker"


def test_the_file_is_the_one_that_is_named_else_under_xdg(tmp_path):
    assert config_path({"XDG_CONFIG_HOME": str(tmp_path)}) == tmp_path / "ml-intern" / "config.toml"
    named = {"ML_INTERN_CONFIG": str(tmp_path / "mine.toml"), "XDG_CONFIG_HOME": str(tmp_path)}
    assert config_path(named) == tmp_path / "mine.toml"
    assert load_config(named).warnings == (f"ML_INTERN_CONFIG: there is no {tmp_path}/mine.toml",)


def test_no_directory_one_happens_to_be_in_configures_anything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("config.toml", "ml-intern.toml", ".ml-intern/config.toml", "ml-intern/config.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(SERVER)
    (tmp_path / ".env").write_text(f"ML_INTERN_CONFIG={tmp_path}/config.toml\nXDG_CONFIG_HOME={tmp_path}\n")
    assert not load_settings(os.environ, working_dir=tmp_path).config.mcp
    assert not load_config({"XDG_CONFIG_HOME": "."}).mcp
    with pytest.raises(InvalidInput, match="depends on the directory one is in"):
        load_config({"ML_INTERN_CONFIG": "config.toml"})


@pytest.mark.parametrize(
    ("lines", "command"),
    [
        ('command = "npx"\nargs = ["-y", "a b"]', ("npx", "-y", "a b")),
        ('command = "tracker-mcp"', ("tracker-mcp",)),
        ('command = "/opt/my tools/server"\nargs = []', ("/opt/my tools/server",)),
    ],
)
def test_a_server_may_stand_there_as_other_clients_write_it(lines, command, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text(f"[mcp.files]\n{lines}\n")
    assert load_config({"ML_INTERN_CONFIG": str(file)}).mcp["files"].command == command


def test_all_problems_are_told_at_once_with_the_nearest_key():
    assert problems(
        """
        modle = {}
        [model]
        antropic = "x"
        effort = "max"
        openai = 3
        [prices.m]
        input = true
        outpt = 2
        [mcp.tracker]
        comand = ["x"]
        [sandbox]
        wall = "chroot"
        allow_unsandboxed = "yes"
        zzz = 1
        """
    ) == [
        "model.openai: must be text, in quotes",
        "model.effort: must be 'low', 'medium' or 'high'",
        "model.antropic: unknown key; did you mean anthropic?",
        "prices.m.input: must be a number",
        "prices.m.output: is missing",
        "prices.m.outpt: unknown key; did you mean output?",
        "mcp.tracker.comand: unknown key; did you mean command?",
        "sandbox.wall: must be 'auto', 'bubblewrap', 'docker' or 'none'",
        "sandbox.allow_unsandboxed: must be true or false",
        "sandbox.zzz: unknown key; known: wall, docker_image, allow_unsandboxed",
        "modle: unknown key; did you mean model?",
    ]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("", ": needs either command or url"),
        ('command = ["a"]\nurl = "https://a"', ": needs either command or url"),
        ('command = "npx a"', ".command: must be a list"),
        ("command = []", ".command: must not be empty"),
        ('command = ["./server"]', ": ./server depends on the directory one is in; give the whole path"),
        ('command = ["a"]\nheaders = {A = "b"}', ": headers are for a url; a command takes env and pass_env"),
        ('url = "https://a"\nenv = {A = "b"}', ": env and pass_env are for a command; a url takes headers"),
        ('url = "ftp://a"', ": url must be an http:// or https:// address"),
        ('url = "https://me:pw@a"', ": url holds a user name or password; put it into headers"),
        ('url = "https://a"\nheaders = {A = "b\\n"}', ".headers.A: has characters that it cannot have"),
        (
            'command = ["a"]\nenv = {TOKEN = "${HF_TOKEN}"}',
            ": TOKEN: values are taken as they are, variables in them too; name the variable in pass_env",
        ),
        ('command = ["a"]\nenv = {"A B" = "c"}', ".env.A B: this name cannot be used here"),
        ('command = ["a"]\nenv = {PORT = 80}', ".env.PORT: must be text, in quotes"),
        ('command = ["a"]\ntimeout_s = "60"', ".timeout_s: must be a number"),
        ('command = ["a"]\ntimeout_s = 0', ".timeout_s: must be greater than 0"),
        ('command = ["a"]\napprove = [1]', ".approve.0: must be text, in quotes"),
        ('command = ["a"]\nenabled = 1', ".enabled: must be true or false"),
    ],
)  # fmt: skip
def test_a_server_is_a_command_or_an_address(lines, problem):
    assert problems(f"[mcp.x]\n{lines}\n") == [f"mcp.x{problem}"]


@pytest.mark.parametrize("name", ["Tracker", "2nd", "my_tracker", "a" * 33])
def test_a_servers_name_is_one_that_tools_can_bear(name):
    assert problems(f'[mcp.{name}]\ncommand = ["a"]\n') == [
        f"mcp.{name}: the name must be small letters, digits and hyphens, a letter first, 32 at most"
    ]


@pytest.mark.parametrize("price", ["-1", "inf", "nan", "true", '"3"'])
def test_a_price_is_a_number_of_dollars(price):
    assert len(problems(f'[prices."m"]\ninput = {price}\noutput = 2\n')) == 1


def test_prices_are_plain_numbers_by_model():
    config = load('[prices."m-1.5"]\ninput = 3\noutput = 15.5\ncache_read = 0.3\n')
    assert config.prices == {"m-1.5": {"input": 3.0, "output": 15.5, "cache_read": 0.3}}


def test_what_is_no_toml_says_where():
    (problem,) = problems("[model\n")
    assert "this is no TOML" in problem
    assert "line 1" in problem


def test_a_file_that_is_not_text_is_bad_input():
    write("").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_config({})


SECRETS = f"""{SERVER}env = {{TRACKER_KEY = "abcd", LICENCE = "long-licence", DEBUG = "1", TOKEN = "abc"}}
pass_env = ["MY_TOKEN", "DISPLAY_NAME"]
[mcp.far]
url = "https://far.example/mcp?key=in-the-address"
headers = {{Authorization = "Bearer in-the-header"}}
"""


def test_what_servers_are_given_in_confidence_is_secret(tmp_path):
    write(SECRETS)
    environment = {"MY_TOKEN": "passed-on", "DISPLAY_NAME": "Somebody or other"}
    settings = load_settings(environment, working_dir=tmp_path)
    assert set(settings.secrets) == {
        "abcd",
        "long-licence",
        "passed-on",
        "key=in-the-address",
        "Bearer in-the-header",
        "in-the-header",
    }
    for secret in settings.secrets:
        assert secret not in repr(settings)


def test_no_message_or_cause_holds_what_is_secret():
    write(f'{SECRETS}timeout_s = "x"\ntypo = 1\n')
    with pytest.raises(InvalidInput) as refused:
        load_config({})
    shown = f"{refused.value.message} {refused.value.hint} {refused.value.__cause__}"
    assert "in-the-header" not in shown
    assert "in-the-address" not in shown


@pytest.mark.parametrize(
    ("text", "mode", "warning"),
    [
        (SECRETS, 0o600, None),
        (SERVER, 0o644, None),
        (SECRETS, 0o644, "others can read it: chmod 600"),
        (SERVER, 0o666, "can be changed by every user"),
    ],
)
def test_a_file_that_others_reach_is_warned_of(text, mode, warning):
    write(text, mode=mode)
    warnings = load_config({}).warnings
    assert len(warnings) == (warning is not None)
    assert warning is None or warning in warnings[0]


def test_headers_over_plain_http_are_warned_of_unless_they_stay_here():
    headers = 'headers = {A = "abcdefgh"}\n'
    assert load(f'[mcp.a]\nurl = "http://a.example"\n{headers}').warnings == (
        "[mcp.a] sends its headers unencrypted: use https",
    )
    assert not load(f'[mcp.a]\nurl = "http://localhost:3000"\n{headers}').warnings
    assert not load('[mcp.a]\nurl = "http://a.example"\n').warnings
