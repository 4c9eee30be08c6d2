from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from ml_intern_cli.notify import EVENTS, Notifier, NotifySettings

# apprise imports it for PGP signatures on Python before 3.13
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

TELEGRAM_TOKEN = "123456789:" + "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA3bC"
SLACK_TOKEN = "xoxb-" + "1234567890-abcdefABCDEF"


@dataclass
class Loopback:
    """Telegram, Slack and a webhook on one port of this machine."""

    status: int = 200
    hang: threading.Event | None = None  # set: answer
    requests: list[tuple[str, dict[str, str], dict[str, object]]] = field(default_factory=list)
    url: str = ""

    def handler(self) -> type[BaseHTTPRequestHandler]:
        loopback = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                loopback.requests.append((self.path, dict(self.headers), body))
                if loopback.hang is not None:
                    loopback.hang.wait(30)
                self.send_response(loopback.status)
                self.end_headers()
                self.wfile.write(json.dumps({"ok": True, "description": "chat not found"}).encode())

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def loopback(monkeypatch):
    from apprise.plugins.slack import NotifySlack
    from apprise.plugins.telegram import NotifyTelegram

    services = Loopback()
    server = ThreadingHTTPServer(("127.0.0.1", 0), services.handler())
    services.url = f"http://127.0.0.1:{server.server_address[1]}"
    # The hosts of Slack and Telegram are constants of apprise's plugins.
    monkeypatch.setattr(NotifySlack, "api_url", f"{services.url}/api/{{}}")
    monkeypatch.setattr(NotifySlack, "request_rate_per_sec", 0)
    monkeypatch.setattr(NotifyTelegram, "notify_url", f"{services.url}/bot")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield services
    if services.hang is not None:
        services.hang.set()
    server.shutdown()
    thread.join()
    server.server_close()


def telegram(**changes) -> NotifySettings:
    return NotifySettings(telegram_bot_token=TELEGRAM_TOKEN, telegram_chat_id="4242", **changes)


def test_without_settings_nothing_is_sent_and_nothing_fails(loopback):
    assert Notifier(NotifySettings()).send("published", "done") == ()
    assert Notifier(NotifySettings(telegram_bot_token=TELEGRAM_TOKEN)).send("published", "done") == ()
    assert Notifier(NotifySettings(slack_bot_token=SLACK_TOKEN)).send("published", "done") == ()
    assert loopback.requests == []


def test_telegram_receives_the_event_and_its_message(loopback):
    assert Notifier(telegram()).send("plan_ready", "2 paths & 590 steps") == ()
    ((path, _, body),) = loopback.requests
    assert path == f"/bot{TELEGRAM_TOKEN}/sendMessage"
    assert str(body["chat_id"]) == "4242"
    assert body["text"] == "plan_ready: 2 paths &amp; 590 steps"
    assert body["parse_mode"] == "HTML"


@pytest.mark.parametrize(("channel", "sent"), [("C0123456789", "C0123456789"), ("general", "#general")])
def test_slack_bot_receives_the_event_with_its_token_in_the_header(loopback, channel, sent):
    settings = NotifySettings(slack_bot_token=SLACK_TOKEN, slack_channel_id=channel)
    assert Notifier(settings).send("train_done", "1.412 after 590 steps") == ()
    ((path, headers, body),) = loopback.requests
    assert path == "/api/chat.postMessage"
    assert headers["Authorization"] == f"Bearer {SLACK_TOKEN}"
    assert body["channel"] == sent
    assert "train_done: 1.412 after 590 steps" in json.dumps(body)


def test_webhook_receives_only_a_text_field_at_its_exact_address(loopback):
    settings = NotifySettings(slack_webhook_url=f"{loopback.url}/services/T1/B2/c3?thread=7")
    assert Notifier(settings).send("blocker", "needs <HF_TOKEN> & you") == ()
    ((path, _, body),) = loopback.requests
    assert path == "/services/T1/B2/c3?thread=7"
    assert body == {"text": "blocker: needs &lt;HF_TOKEN&gt; &amp; you"}


def test_all_services_hear_of_one_event(loopback):
    settings = telegram(
        slack_bot_token=SLACK_TOKEN, slack_channel_id="general", slack_webhook_url=f"{loopback.url}/hook"
    )
    assert Notifier(settings).send("error", "all paths failed") == ()
    assert {urlsplit(path).path.rsplit("/", 1)[-1] for path, _, _ in loopback.requests} == {
        "sendMessage",
        "chat.postMessage",
        "hook",
    }


def test_slack_hears_only_of_the_chosen_events_and_telegram_of_all(loopback):
    settings = telegram(slack_webhook_url=f"{loopback.url}/hook", slack_auto_events="train_done, error")
    notifier = Notifier(settings)
    notifier.send("plan_ready", "x")
    notifier.send("error", "y")
    paths = [path.rsplit("/", 1)[-1] for path, _, _ in loopback.requests]
    assert sorted(paths) == ["hook", "sendMessage", "sendMessage"]


def test_a_refusal_is_reported_without_the_token(loopback, capfd):
    loopback.status = 400
    (failure,) = Notifier(telegram()).send("published", "done")
    assert failure.startswith("telegram: ")
    assert "chat not found" in failure
    assert TELEGRAM_TOKEN not in failure
    assert capfd.readouterr() == ("", "")


def test_one_failing_service_does_not_keep_the_others_from_sending(loopback):
    settings = telegram(slack_webhook_url="http://127.0.0.1:1/hook")
    (failure,) = Notifier(settings).send("published", "done")
    assert failure.startswith("slack-webhook: ")
    assert [path.rsplit("/", 1)[-1] for path, _, _ in loopback.requests] == ["sendMessage"]


@pytest.mark.parametrize(
    "settings",
    [
        NotifySettings(telegram_bot_token="not-a-token-5", telegram_chat_id="1"),
        NotifySettings(slack_bot_token="not-a-token-5", slack_channel_id="general"),
        NotifySettings(slack_webhook_url="http://127.0.0.1:notaport/hook"),
        NotifySettings(slack_webhook_url="not a url"),
        NotifySettings(slack_webhook_url="http://[hooks.slack.com]/services/T/B/x"),
    ],
)
def test_settings_that_cannot_work_are_a_reported_failure_without_their_value(settings, capfd):
    (failure,) = Notifier(settings).send("published", "done")
    assert "not-a-token-5" not in failure
    assert capfd.readouterr() == ("", "")


def test_a_host_that_never_answers_is_given_up_and_reported(loopback, monkeypatch):
    monkeypatch.setattr("ml_intern_cli.notify.WAIT_S", 0.3)
    loopback.hang = threading.Event()
    (failure,) = Notifier(telegram()).send("published", "done")
    assert failure.startswith("telegram: ")
    assert not loopback.hang.is_set()  # send came back while the host was still silent


def test_a_token_in_a_message_is_hidden_before_it_is_sent(loopback):
    secret = "hf_" + "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA3b"
    Notifier(telegram()).send("error", f"upload with {secret} and {TELEGRAM_TOKEN} failed")
    assert secret not in json.dumps(loopback.requests[0][2])
    assert TELEGRAM_TOKEN not in json.dumps(loopback.requests[0][2])


def test_settings_show_no_secret():
    settings = telegram(
        slack_bot_token=SLACK_TOKEN, slack_webhook_url="https://hooks.slack.com/services/T/B/c"
    )
    for secret in settings.secrets:
        assert secret not in repr(settings)
        assert secret not in repr(Notifier(settings))


def test_every_event_of_the_design_is_known():
    assert {"plan_ready", "code_ready", "train_started", "train_done", "error", "blocker"} < EVENTS
    assert {"approval_required", "published", "budget_set", "path_failed", "retry"} < EVENTS
