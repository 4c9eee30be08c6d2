"""`ml-intern doctor`: what this machine has, and what each of it is good for.

Only what answers quickly is asked, and nothing heavy is imported. No secret is shown: an account is
there or it is not.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ml_intern_cli.cli.terminal import Terminal, aligned
from ml_intern_cli.errors import InvalidInput

if TYPE_CHECKING:
    from ml_intern_cli.cli.settings import Settings
    from ml_intern_cli.executors.sandbox import SandboxSettings

_GIB = 2**30
_HUB_TIMEOUT_S = 3.0
_NVIDIA_TIMEOUT_S = 10.0
_LEAST_DISK_GIB = 2.0
_NEEDED = ("torch", "transformers", "datasets", "tokenizers", "safetensors", "accelerate", "huggingface_hub")


class Finding(StrEnum):
    """What can be said of one thing."""

    PRESENT = "present"
    ABSENT = "absent"  # works without
    BROKEN = "broken"  # does not work without


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at. ``enables``: what it is good for, or what to do about it."""

    group: str
    name: str
    finding: Finding
    value: str
    enables: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Everything that was looked at."""

    is_able: bool  # the main job can run here
    checks: tuple[Check, ...]


def examine(settings: Settings, sandbox: SandboxSettings | None = None) -> Diagnosis:
    """Look at everything; takes a few seconds at most. ``sandbox`` wins over what the settings say of it."""
    checks = (
        *_compute(),
        *_storage(settings.runs_dir),
        *_software(),
        *_accounts(settings),
        *_brains(settings),
        *_config(settings),
        *_walls(sandbox or settings.sandbox),
    )
    return Diagnosis(is_able=all(check.finding is not Finding.BROKEN for check in checks), checks=checks)


def diagnosis_lines(diagnosis: Diagnosis, terminal: Terminal) -> Iterator[str]:
    """One line per thing, under the heading of its group."""
    glyphs = terminal.glyphs
    marks = {
        Finding.PRESENT: (glyphs.done, "green"),
        Finding.ABSENT: (glyphs.todo, "dim"),
        Finding.BROKEN: (glyphs.failed, "red"),
    }
    rows = aligned([check.name, check.value, check.enables] for check in diagnosis.checks)
    group = ""
    for check, row in zip(diagnosis.checks, rows, strict=True):
        if check.group != group:
            group = check.group
            yield terminal.style(group, "bold")
        mark, color = marks[check.finding]
        yield f" {terminal.style(mark, color)} {row}"
    yield ""
    yield "the main job runs here" if diagnosis.is_able else "what is marked must be mended first"


def _compute() -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield _present("compute", "processor", f"{cores} cores, {_cpu_model()}", "training, at any scale")
    yield _memory()
    yield _gpu()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.machine()


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    total = min(memory.total, _cgroup_limit() or memory.total)
    available = min(memory.available, total)
    # 16 bytes per parameter (fp32, AdamW), and half of what is free left to activations and data.
    largest = available / 2 / 16
    value = f"{total / _GIB:.1f} GiB, {available / _GIB:.1f} free"
    return _present("compute", "memory", value, f"models up to about {largest / 1e6:,.0f}M parameters")


def _cgroup_limit() -> int | None:
    """The memory limit of a container, in bytes."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _gpu() -> Check:
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            query,
            capture_output=True,
            text=True,
            timeout=_NVIDIA_TIMEOUT_S,
            check=True,
            env={"PATH": os.environ.get("PATH", "")},  # no token is its business
        )
    except (OSError, subprocess.SubprocessError):
        return _absent("compute", "GPU", "none found", "faster training; everything works without")
    names = "; ".join(line.strip() for line in answer.stdout.splitlines() if line.strip())
    if "+cpu" in (_version("torch") or ""):
        return _absent("compute", "GPU", names, "not used: this torch is a CPU build; install one with CUDA")
    return _present("compute", "GPU", names, "faster training")


def _storage(runs_dir: Path) -> Iterator[Check]:
    place = next(folder for folder in (runs_dir, *runs_dir.parents) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        hint = "choose another: --runs-dir DIR or ML_INTERN_RUNS_DIR"
        yield Check(
            group="storage",
            name="runs",
            finding=Finding.BROKEN,
            value=f"{runs_dir}: not writable",
            enables=hint,
        )
        return
    yield _present("storage", "runs", str(runs_dir), "where runs are kept")
    free_gib = shutil.disk_usage(place).free / _GIB
    value = f"{free_gib:.1f} GiB free"
    if free_gib < _LEAST_DISK_GIB:
        yield _absent("storage", "disk", value, "little: data and checkpoints of a larger model may not fit")
    else:
        yield _present("storage", "disk", value, "data and checkpoints (12 bytes per parameter each)")


def _software() -> Iterator[Check]:
    yield _present("software", "python", platform.python_version(), "")
    for package in _NEEDED:
        found = _version(package)
        if found:
            yield _present("software", package, found, "")
        else:
            hint = "reinstall: pip install --force-reinstall ml-intern-cli"
            yield Check(
                group="software", name=package, finding=Finding.BROKEN, value="not installed", enables=hint
            )


def _accounts(settings: Settings) -> Iterator[Check]:
    yield _hub(settings)
    source = settings.hub_token_source
    if source:
        yield _present("accounts", "Hub token", f"set ({source})", "publishing to the Hub, gated datasets")
    else:
        yield _absent(
            "accounts", "Hub token", "not set", "HF_TOKEN publishes to the Hub; --publish folder without"
        )
    notify = settings.notify
    telegram = bool(notify.telegram_bot_token and notify.telegram_chat_id)
    slack = bool((notify.slack_bot_token and notify.slack_channel_id) or notify.slack_webhook_url)
    for name, is_set, variables in (
        ("Telegram", telegram, "TG_BOT_TOKEN and TG_CHAT_ID"),
        ("Slack", slack, "SLACK_WEBHOOK_URL, or SLACK_BOT_TOKEN and SLACK_CHANNEL_ID"),
    ):
        if is_set:
            yield _present("accounts", name, "set", "notifications")
        else:
            yield _absent("accounts", name, "not set", f"{variables}: notifications")


def _hub(settings: Settings) -> Check:
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    endpoint = settings.hub.address
    if settings.hub.offline:
        return _absent(
            "accounts", "Hub", "HF_HUB_OFFLINE is set", "Hub datasets and tokenizers; built-in ones without"
        )
    try:
        # No token goes along: reachable is all there is to know.
        request = Request(f"{endpoint}/api/models?limit=1", method="GET")  # noqa: S310, checked below
        if request.type not in {"http", "https"}:
            return _absent(
                "accounts", "Hub", f"{endpoint} is no web address", "set HF_ENDPOINT to an https address"
            )
        with urlopen(request, timeout=_HUB_TIMEOUT_S):  # noqa: S310, http or https only
            pass
    except HTTPError as error:
        return _present(
            "accounts", "Hub", f"{endpoint} answers ({error.code})", "datasets, tokenizers, publishing"
        )
    except (OSError, HTTPException, ValueError):
        return _absent(
            "accounts", "Hub", f"{endpoint} not reachable", "built-in stories and tokenizer instead"
        )
    return _present("accounts", "Hub", f"{endpoint} reachable", "datasets, tokenizers, publishing")


def _brains(settings: Settings) -> Iterator[Check]:
    from ml_intern_cli.brains import blueprints

    known = ", ".join(blueprints.names())
    yield _present("brains", "blueprint", known, "offline and deterministic")
    for name, access in (("anthropic", settings.anthropic), ("openai", settings.openai)):
        where = f" at {_host(access.base_url)}" if access.base_url else ""
        if access.api_key or (name == "openai" and access.base_url):
            key = f"{name.upper()}_API_KEY is set" if access.api_key else "without a key"
            yield _present("brains", name, f"{key}{where}", f"writes what no blueprint has: --brain {name}")
        else:
            yield _absent(
                "brains",
                name,
                f"{name.upper()}_API_KEY is not set",
                "blueprints are built all the same",
            )


def _config(settings: Settings) -> Iterator[Check]:
    """What is to be said of the user's config file."""
    for warning in settings.config.warnings:
        yield _absent("brains", "config file", warning, "see docs/config.md")


def _host(url: str) -> str:
    """The host of an address; the rest may hold a secret."""
    return urlsplit(url).hostname or "an address without a host"


def _walls(sandbox: SandboxSettings) -> Iterator[Check]:
    """Which wall stands, and which was chosen. Docker is asked only when it was."""
    from ml_intern_cli.executors.sandbox import AUTO, how_to_get_bubblewrap
    from ml_intern_cli.executors.walls import Wall, standing_wall

    inside = "programs of a path write there only, and reach no network and no secret"
    stands = standing_wall() is Wall.BUBBLEWRAP
    if stands:
        unused = "" if sandbox.wall in {AUTO, Wall.BUBBLEWRAP} else f"; not used: {sandbox.wall} was chosen"
        yield _present("walls", "bubblewrap", "stands", f"{inside}{unused}")
    else:
        value, way = how_to_get_bubblewrap()
        without = "without a wall programs of a path can read and write your files"
        if sandbox.wall == Wall.BUBBLEWRAP:
            yield _broken("walls", "bubblewrap", f"chosen, and {value}", way)
        else:
            yield _absent("walls", "bubblewrap", value, f"{way}; {without}")
    if sandbox.wall == Wall.DOCKER:
        yield _docker(sandbox.docker_image, inside)
    if sandbox.wall == Wall.NONE or (sandbox.wall == AUTO and not stands):
        how = "runs with your rights, as you allowed" if sandbox.allow_unsandboxed else "is asked about first"
        yield _absent("walls", "none", "no wall is used", f"code that is not shipped {how}")


def _docker(image: str | None, inside: str) -> Check:
    from ml_intern_cli.executors import docker

    try:
        docker.require(image)
    except InvalidInput as error:
        return _broken("walls", "docker", error.message, error.hint or "")
    gpu = "with the GPUs" if docker.has_gpu() else "without a GPU"
    return _present("walls", "docker", f"{docker.daemon().version} answers, {image} is there, {gpu}", inside)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _present(group: str, name: str, value: str, enables: str) -> Check:
    return Check(group=group, name=name, finding=Finding.PRESENT, value=value, enables=enables)


def _broken(group: str, name: str, value: str, enables: str) -> Check:
    return Check(group=group, name=name, finding=Finding.BROKEN, value=value, enables=enables)


def _absent(group: str, name: str, value: str, enables: str) -> Check:
    return Check(group=group, name=name, finding=Finding.ABSENT, value=value, enables=enables)
