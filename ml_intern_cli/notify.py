"""Milestones to Telegram and Slack, through apprise.

A service without settings is left out silently. A failure is reported to the caller and never
stops a run, and a host that does not answer delays it by at most ``WAIT_S`` seconds.
"""

from __future__ import annotations

import html
import logging
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from ml_intern_cli.secrets import scrub

EVENTS = frozenset(
    {
        *("plan_ready", "code_ready", "train_started", "train_done"),
        *("error", "blocker", "approval_required", "published"),
        *("budget_set", "path_failed", "retry"),
    }
)
WAIT_S = 4.5
_LONGEST_TEXT = 3_500  # characters; Telegram takes 4,096, escapes included

_SLACK_ID = re.compile(r"[CDGU][A-Z0-9]{8,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifySettings:
    """Where the user wants to hear of a run. What is absent is not used.

    Attributes:
        slack_auto_events: Comma-separated events that go to Slack; ``None`` means all.
    """

    telegram_bot_token: str | None = field(default=None, repr=False)
    telegram_chat_id: str | None = None
    slack_bot_token: str | None = field(default=None, repr=False)
    slack_channel_id: str | None = None
    slack_webhook_url: str | None = field(default=None, repr=False)
    slack_auto_events: str | None = None

    @property
    def secrets(self) -> tuple[str | None, ...]:
        """What must stand in no message."""
        return (self.telegram_bot_token, self.slack_bot_token, self.slack_webhook_url)


@dataclass(frozen=True, slots=True)
class Notifier:
    """Sends events to every service that has settings."""

    settings: NotifySettings

    def send(self, event: str, message: str) -> tuple[str, ...]:
        """Send one event, and wait for the answers at most ``WAIT_S`` seconds.

        Returns:
            One line per service that did not take it, without secrets; empty when all is well.
        """
        assert event in EVENTS, event  # noqa: S101, an invariant: stages name their events
        text = scrub(f"{event}: {message}", known=self.settings.secrets)[:_LONGEST_TEXT]
        try:
            wanted = self._services(event, text)
        except ValueError:  # an address that is none
            return ("slack-webhook: its settings are not valid",)
        if not wanted:
            return ()
        failures = _deliver_all(wanted, text)
        return tuple(scrub(failure, known=self.settings.secrets) for failure in failures)

    def _services(self, event: str, text: str) -> list[tuple[str, dict[str, Any]]]:
        """Name and apprise's arguments of every service that hears of this event."""
        settings = self.settings
        found: list[tuple[str, dict[str, Any]]] = []
        if settings.telegram_bot_token and settings.telegram_chat_id:
            found.append(
                (
                    "telegram",
                    {
                        "schema": "tgram",
                        "bot_token": settings.telegram_bot_token,
                        "targets": settings.telegram_chat_id,
                        "detect_owner": False,
                    },
                )
            )
        if not self._slack_hears(event):
            return found
        if settings.slack_bot_token and settings.slack_channel_id:
            channel = settings.slack_channel_id
            found.append(
                (
                    "slack",
                    {
                        "schema": "slack",
                        "access_token": settings.slack_bot_token,
                        "targets": f"+{channel}" if _SLACK_ID.fullmatch(channel) else channel,
                        "include_image": False,
                    },
                )
            )
        if settings.slack_webhook_url:
            found.append(("slack-webhook", _webhook(settings.slack_webhook_url, text)))
        return found

    def _slack_hears(self, event: str) -> bool:
        chosen = self.settings.slack_auto_events
        return chosen is None or event in {name.strip() for name in chosen.split(",")}


def _deliver_all(wanted: list[tuple[str, dict[str, Any]]], text: str) -> list[str]:
    """Send to all services at once. Returns a line for each that did not take it in time."""
    failures: dict[str, str | None] = {name: f"no answer within {WAIT_S:g} s" for name, _ in wanted}

    def deliver(name: str, service: dict[str, Any]) -> None:
        failures[name] = _deliver(service, text)

    # Threads of our own: those of apprise would be waited for when the program ends.
    threads = [threading.Thread(target=deliver, args=one, daemon=True) for one in wanted]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + WAIT_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [f"{name}: {why}" for name, why in failures.copy().items() if why is not None]


def _deliver(service: dict[str, Any], text: str) -> str | None:
    """Why one service did not take the text, or ``None``."""
    import apprise

    _keep_quiet()
    # Memory only: apprise would otherwise keep a cache of its own in the home directory.
    services = apprise.Apprise(asset=apprise.AppriseAsset(storage_mode="memory"))
    try:
        if not services.add(service):
            return "its settings are not valid"
        for result in services.notify(body=text, body_format="text"):
            if not result:
                return "; ".join([entry.message for entry in result.logs()] or [result.status.name.lower()])
    except Exception as error:  # noqa: BLE001, whatever a service does, the run goes on
        return type(error).__name__
    return None


def _webhook(url: str, text: str) -> dict[str, Any]:
    """A POST of ``{"text": …}`` to the address as it is, so that whatever speaks Slack's webhooks is served.

    Source: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
    """
    parts = urlsplit(url)
    return {
        "schema": "jsons" if parts.scheme == "https" else "json",
        "host": parts.hostname,
        "port": _port(parts),
        "user": parts.username,
        "password": parts.password,
        "fullpath": parts.path,
        "params": dict(parse_qsl(parts.query)),
        # Slack refuses fields that it does not know: an empty value takes apprise's own away.
        "payload": {
            **dict.fromkeys(("version", "title", "message", "attachments", "type"), ""),
            "text": html.escape(text, quote=False),
        },
    }


def _port(parts: SplitResult) -> int | None:
    try:
        return parts.port
    except ValueError:
        return 0  # not a port: nobody answers there, and the failure is reported like any other


def _keep_quiet() -> None:
    """Apprise's log names tokens that it finds invalid; the results carry what is worth knowing."""
    logger = logging.getLogger("apprise")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
