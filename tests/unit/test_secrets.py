from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_intern_cli.secrets import Finding, find_secrets, scrub

# Put together here so that no file of the repository looks as if it held a credential.
LETTERS = "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA3bC5"
SECRETS = {
    "Hugging Face token": "hf_" + LETTERS[:34],
    "API key": "sk-" + "ant-api03-" + LETTERS,
    "GitHub token": "ghp_" + LETTERS,
    "Slack token": "xoxb-" + "123456789012-" + LETTERS,
    "Telegram bot token": "123456789:" + LETTERS[:35],
    "AWS key": "AKIA" + "IOSFODNN7EXAMPL3",
    "JSON web token": "eyJ" + LETTERS + "." + LETTERS + "." + LETTERS,
}


@pytest.mark.parametrize("kind", SECRETS)
def test_a_bare_token_is_found_on_its_line_and_hidden(kind):
    text = f"first line\nthe value {SECRETS[kind]} stands here\n"
    assert find_secrets(text) == [Finding(2, kind)]
    assert scrub(text) == f"first line\nthe value [redacted: {kind}] stands here\n"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ('password = "correct horse"', "correct horse"),
        ('{"password": "hunter2"}', "hunter2"),
        ("{'api_key': 'abcd-efgh'}", "abcd-efgh"),
        ('aws_secret_access_key: "wJalrXUtnFEMI/K7MDENG"', "wJalrXUtnFEMI/K7MDENG"),
        ("HF_TOKEN=opaque-value-1 python train.py", "opaque-value-1"),
        ("export ANTHROPIC_API_KEY=opaquevalue", "opaquevalue"),
        ("https://me:pa55word@example.org/data.txt", "pa55word"),
        ("Authorization: Bearer 0123456789abcdef0123", "0123456789abcdef0123"),
        ("authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("POST https://hooks.slack.com/services/T0001/B0001/abcdefgh", "T0001/B0001/abcdefgh"),
        ("GET https://api.telegram.org/bot" + SECRETS["Telegram bot token"] + "/getMe", LETTERS[:35]),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz\n-----END OPENSSH PRIVATE KEY-----", "b3BlbnNz"),
    ],
)
def test_only_the_credential_is_hidden_and_the_rest_stays_readable(text, hidden):
    scrubbed = scrub(text)
    assert hidden not in scrubbed
    assert "[redacted: " in scrubbed
    assert find_secrets(text) or " " in hidden
    assert find_secrets(scrubbed) == []


@pytest.mark.parametrize(
    "text",
    [
        'Tom smiled and told Mia his secret: "We have a new puppy!" They ran home.',
        "PAD_TOKEN=tokenizer.eos_token",
        'TOKEN=os.environ["HF_TOKEN"]',
    ],
)
def test_stories_and_code_are_no_credentials(text):
    assert find_secrets(text) == []


def test_a_known_value_is_found_whatever_it_looks_like():
    assert find_secrets("step=1\nplain-words here", known=["plain-words"]) == [
        Finding(2, "a token of this session")
    ]


@pytest.mark.parametrize(
    "text",
    [
        "HF_TOKEN=… ml-intern publish a-run --publish hub",
        "HF_TOKEN=<your token> ml-intern publish a-run",
        "export HF_TOKEN=$OTHER",
        '"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"',
        '{"password": 1234, "Ġsecret": 5678}',
        "step=12 loss=3.4123",
        "tokens=2048 NUM_TOKEN=1234567890",
        "the risk-adjusted-return-of-investment-2024 and a task-with-a-long-name-2024",
        "sk-learn-contrib-and-other-packages",
        "bearer authentication-is-described-below",
        "time 12:34:56 and ratio 1234567890:1",
        "https://huggingface.co/datasets/roneneldan/TinyStories@main",
        "sha256 " + "0123456789abcdef" * 4,
        "commit " + "0123456789" * 4,
        "her secret was a red key, and the password of the gate was a song",
    ],
)
def test_ordinary_text_holds_no_secret(text):
    assert find_secrets(text) == []
    assert scrub(text) == text


def test_known_values_are_hidden_whatever_they_look_like():
    assert scrub("user bob sent plainvalue", known=["plainvalue", None, ""]) == "user bob sent [redacted]"


@given(before=st.text(), after=st.text(), kind=st.sampled_from(sorted(SECRETS)))
def test_no_token_survives_scrubbing_whatever_lines_surround_it(before, after, kind):
    assert SECRETS[kind] not in scrub(f"{before}\n{SECRETS[kind]}\n{after}")


@given(st.text())
def test_scrubbing_twice_changes_nothing_more(text):
    assert scrub(scrub(text)) == scrub(text)
