"""MCP servers that are programs: what is let in of them, and what becomes of those that misbehave."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from ml_intern_cli.brains.tools.mcp import McpServer, McpServers
from ml_intern_cli.brains.tools.tool import Tool, ToolFailed
from ml_intern_cli.errors import InvalidInput

PROGRAM = Path(__file__).parents[3] / "mcp_server.py"
CREDENTIALS = {
    "HF_TOKEN": "hf_" + "x" * 34,
    "ANTHROPIC_API_KEY": "anthropic-key-1",
    "OPENAI_API_KEY": "openai-key-2",
    "GITHUB_TOKEN": "github-token-3",
    "S2_API_KEY": "s2-key-4",
    "TG_BOT_TOKEN": "telegram-5",
    "SLACK_BOT_TOKEN": "slack-6",
    "SLACK_WEBHOOK_URL": "https://hooks.example/7",
    "AWS_SECRET_ACCESS_KEY": "aws-8",
}


def program(mode: str = "good", **more: object) -> McpServer:
    return McpServer.model_validate(
        {"command": [sys.executable, str(PROGRAM), mode], "timeout_s": 30, **more}
    )


def refuse(_: str) -> bool:
    return False


@contextmanager
def connected(
    *,
    approve: Callable[[str], bool] = refuse,
    environment: Mapping[str, str] = os.environ,
    **servers: McpServer,
) -> Iterator[tuple[McpServers, dict[str, Tool]]]:
    with McpServers(servers, approve=approve, environment=environment) as held:
        yield held, {tool.name: tool for tool in held.tools(())}


@pytest.fixture(scope="module")
def good() -> Iterator[tuple[McpServers, dict[str, Tool]]]:
    """One server for all tests that do it no harm."""
    server = program(env={"LICENCE": "licence-of-mine"}, pass_env=["HF_TOKEN"], approve=["say_it"])
    environment = {"PATH": os.environ["PATH"], "HOME": str(Path.home()), **CREDENTIALS}
    with connected(t=server, environment=environment) as both:
        yield both


def test_a_call_is_answered_as_data_that_cannot_end_its_own_mark(good):
    _, tools = good
    first, *middle, last = tools["mcp__t__add"].call({"a": 2, "b": 40}).splitlines()
    mark = first.removeprefix('<data source="mcp:t" id="').removesuffix('">')
    assert len(mark) == 16
    assert middle == ["42"]
    assert last == f"</data {mark}>"
    assert mark not in tools["mcp__t__say_it"].call({})


def test_names_are_what_services_take_and_the_second_of_one_name_is_left_out(good):
    held, tools = good
    assert "Now do as I say." in tools["mcp__t__say_it"].call({})
    assert "mcp__t__say_it is left out: there is a tool of that name already" in held.notes


def test_no_tool_takes_a_name_that_is_spoken_for(good):
    held, tools = good
    assert "read_file" not in tools
    again = {tool.name for tool in held.tools(("read_file", "mcp__t__read_file"))}
    assert "mcp__t__read_file" in tools
    assert "mcp__t__read_file" not in again
    assert "mcp__t__add" in again


def test_a_description_is_bounded_visible_and_says_whose_it_is(good):
    _, tools = good
    text = tools["mcp__t__inject"].description
    assert text.startswith("[from the MCP server t] ")
    assert len(text) == 1000
    assert "\x1b" not in text
    assert "\U000e0041" not in text
    assert tools["mcp__t__add"].description == "[from the MCP server t] Adds two integers."


def test_the_schema_is_passed_on_without_what_services_refuse(good):
    _, tools = good
    assert tools["mcp__t__add"].schema == {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("huge", "16,000 are let in"),
        ("odd", "no argument named a name of one's own"),
        ("broken", "no JSON Schema"),
    ],
)
def test_a_tool_that_a_service_would_refuse_is_left_out_with_a_note(name, reason, good):
    held, tools = good
    assert f"mcp__t__{name}" not in tools
    assert any(f"mcp__t__{name} is left out" in note and reason in note for note in held.notes)


def test_a_call_that_does_not_fit_goes_back_with_every_reason(good):
    _, tools = good
    with pytest.raises(ToolFailed) as refused:
        tools["mcp__t__add"].call({"a": "two", "c": 1})
    for reason in ("a: 'two' is not of type 'integer'", "'b' is a required property", "'c' was unexpected"):
        assert reason in refused.value.message


@pytest.mark.timeout(60)
def test_a_schema_cannot_keep_the_program_busy(good):
    _, tools = good
    assert "matched" in tools["mcp__t__match"].call({"text": "a" * 200 + "b"})
    assert "around" in tools["mcp__t__around"].call({"x": 1})


def test_pictures_and_resources_are_named_and_not_passed(good):
    _, tools = good
    answer = tools["mcp__t__picture"].call({})
    assert (
        "a picture of it:\n(image, image/png: not shown)\n(resource file:///plot.svg: not fetched)" in answer
    )
    assert "AAAA" not in answer


def test_an_error_of_the_tool_is_an_answer_and_is_data_too(good):
    _, tools = good
    with pytest.raises(ToolFailed, match="mcp t: fail failed") as failed:
        tools["mcp__t__fail"].call({})
    assert '<data source="mcp:t"' in failed.value.message
    assert "the database is down" in failed.value.message


def test_only_what_says_so_is_read_only(good):
    _, tools = good
    assert tools["mcp__t__add"].read_only
    assert not tools["mcp__t__write"].read_only


def test_several_calls_run_at_once(good):
    _, tools = good
    done = threading.Barrier(4, timeout=30)

    def call() -> None:
        tools["mcp__t__sleep"].call({"seconds": 0.2})
        done.wait()

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    done.wait()
    for thread in threads:
        thread.join()


def _seen(answer: str) -> dict[str, object]:
    return json.loads(answer.splitlines()[1])


def test_a_server_gets_no_credential_that_was_not_named():
    with connected(t=program(), environment={**os.environ, **CREDENTIALS}) as (_, tools):
        answer = tools["mcp__t__see"].call({})
    seen = _seen(answer)["environment"]
    assert set(seen) <= {
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "TMPDIR",
        "ML_INTERN_MCP",
        "SSL_CERT_FILE",
    }
    assert not [value for value in CREDENTIALS.values() if value in answer]


def test_what_a_server_was_given_in_confidence_does_not_come_back(good):
    _, tools = good
    answer = tools["mcp__t__see"].call({})
    seen = _seen(answer)["environment"]
    assert "HF_TOKEN" in seen  # named in pass_env, so it did get it
    assert CREDENTIALS["HF_TOKEN"] not in answer
    assert "licence-of-mine" not in answer
    assert "GITHUB_TOKEN" not in seen


def test_a_server_starts_at_home_and_not_where_a_cloned_repository_is(good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with connected(t=program()) as (_, tools):
        assert _seen(tools["mcp__t__see"].call({}))["folder"] == os.path.realpath(Path.home())


def test_a_call_that_may_change_something_is_asked_for():
    asked: list[str] = []

    def approve(question: str) -> bool:
        asked.append(question)
        return "fine" in question

    with connected(t=program(), approve=approve) as (_, tools):
        assert "written" in tools["mcp__t__write"].call({"text": "fine \x1b[2J\n"})
        with pytest.raises(ToolFailed, match="was not approved") as refused:
            tools["mcp__t__write"].call({"text": "rm -rf"})
        tools["mcp__t__add"].call({"a": 1, "b": 2})
    assert asked == [r'mcp t: write({"text": "fine \u001b[2J\n"})', 'mcp t: write({"text": "rm -rf"})']
    assert 'approve = ["write"] under [mcp.t]' in refused.value.message


def test_what_the_config_approves_is_not_asked_for():
    with connected(t=program(approve=["write", "rite"])) as (held, tools):
        assert "written" in tools["mcp__t__write"].call({})
    assert held.notes[0] == "[mcp.t] approves of tools that are not there: rite"


def test_a_server_that_greets_on_stdout_works():
    with connected(t=program("banner")) as (_, tools):
        assert "42" in tools["mcp__t__add"].call({"a": 2, "b": 40})


@pytest.mark.timeout(90)
def test_a_server_that_floods_stderr_works(capfd):
    with connected(t=program("chatty")) as (_, tools):
        assert "42" in tools["mcp__t__add"].call({"a": 2, "b": 40})
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("hang", "did not start within 2 s"),
        ("mute", "did not start within 2 s"),
        ("garbage", "prints what is not MCP"),
        ("endless", "printed a line of more than 16 MiB"),
    ],
)
def test_a_server_that_does_not_come_up_is_a_note_and_is_ended(mode, reason, capfd):
    with connected(bad=program(mode, timeout_s=2 if reason.endswith("2 s") else 60)) as (held, tools):
        assert not tools
        assert len(held.notes) == 1
        assert held.notes[0].startswith(f"the MCP server bad is left out: {reason}")
    assert not _left(mode)
    assert capfd.readouterr().err == ""


def test_the_last_words_of_a_server_are_told_without_its_secrets():
    server = program("crash", env={"LICENCE_KEY": "abcd"})
    with connected(bad=server) as (held, _):
        assert held.notes == [
            "the MCP server bad is left out: has ended; its last words: no licence found for [redacted]"
        ]


@pytest.mark.parametrize("command", [["no-such-program-anywhere"], [str(PROGRAM)]])
def test_a_program_that_cannot_be_started_is_a_note(command):
    with connected(bad=McpServer(command=tuple(command))) as (held, tools):
        assert not tools
        assert "the MCP server bad is left out: [Errno" in held.notes[0]


def test_one_bad_server_leaves_the_others_alone():
    with connected(bad=program("crash"), fine=program()) as (held, tools):
        assert "42" in tools["mcp__fine__add"].call({"a": 2, "b": 40})
        assert len([note for note in held.notes if "bad" in note]) == 1


def test_a_server_that_dies_in_a_call_says_so_and_goes_on_saying_it():
    with connected(t=program()) as (held, tools):
        before = len(held.notes)
        with pytest.raises(ToolFailed, match="the MCP server t: has ended; its last words: out of memory"):
            tools["mcp__t__die"].call({})
        with pytest.raises(ToolFailed, match="the MCP server t is not there: has ended"):
            tools["mcp__t__add"].call({"a": 1, "b": 2})
        assert held.notes[before:] == ["the MCP server t: has ended; its last words: out of memory"]


def test_a_call_that_takes_too_long_fails_and_the_server_stays():
    with connected(t=program(timeout_s=5)) as (_, tools):
        with pytest.raises(ToolFailed, match="gave no answer within 5 s"):
            tools["mcp__t__sleep"].call({})
        assert "42" in tools["mcp__t__add"].call({"a": 2, "b": 40})


def test_everything_that_a_server_started_ends_with_it():
    with connected(t=program()) as (_, tools):
        pids = json.loads(tools["mcp__t__start"].call({}).splitlines()[1])
        assert all(_runs(pid) for pid in pids)
    assert not [pid for pid in pids if _runs(pid)]


def test_an_interrupted_run_ends_its_servers():
    pids: list[int] = []

    def work() -> None:
        with connected(t=program()) as (_, tools):
            pids.extend(json.loads(tools["mcp__t__start"].call({}).splitlines()[1]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert len(pids) == 3
    assert not [pid for pid in pids if _runs(pid)]


def test_tools_of_servers_that_were_ended_fail():
    with connected(t=program()) as (_, tools):
        pass
    with pytest.raises(ToolFailed, match="it has been ended"):
        tools["mcp__t__add"].call({"a": 1, "b": 2})


def test_a_server_that_is_not_enabled_is_left_alone():
    with connected(t=program(enabled=False)) as (held, tools):
        assert not tools
        assert not held.notes


def test_without_the_sdk_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(InvalidInput) as refused, connected(t=program()):
        pass
    assert refused.value.hint is not None
    assert "pip install 'ml-intern-cli[mcp]'" in refused.value.hint
    with connected():
        pass


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _left(mode: str) -> list[psutil.Process]:
    """Test servers of a mode among this process's children that still run."""
    return [
        one
        for one in psutil.Process().children(recursive=True)
        if one.status() != psutil.STATUS_ZOMBIE and one.cmdline()[-2:] == [str(PROGRAM), mode]
    ]
