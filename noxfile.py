"""Checks of the project: `nox` runs the quick ones, `nox -l` lists all."""

from __future__ import annotations

import nox

nox.needs_version = ">=2025.10"
nox.options.sessions = ["lint", "types", "tests", "wheel"]
nox.options.default_venv_backend = "venv"
CODE = ("ml_intern_cli", "templates", "blueprints", "tests", "benchmarks", "noxfile.py")


@nox.session
def tests(session: nox.Session) -> None:
    """Everything that needs no accelerator, network or patience."""
    _install(session, "-e", ".[test]")
    session.run("pytest", "-n", "2", "-m", "not slow and not gpu and not live", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and format."""
    _install(session, "ruff")
    session.run("ruff", "check", *CODE)
    session.run("ruff", "format", "--check", *CODE)


@nox.session
def types(session: nox.Session) -> None:
    """Strict types of the package."""
    _install(session, "-e", ".[dev]")
    session.run("mypy")


@nox.session
def wheel(session: nox.Session) -> None:
    """The wheel works in an environment of its own: templates and blueprints are in it."""
    _install(session, "build")
    folder = session.create_tmp()
    session.run("python", "-m", "build", "--wheel", "--outdir", folder, ".")
    _install(session, "--find-links", folder, "--force-reinstall", "--no-deps", "ml-intern-cli")
    _install(session, "ml-intern-cli")
    with session.chdir(folder):
        session.run("ml-intern", "--version")
        session.run("ml-intern", "size", "deepseek-v3", "1M")
        session.run(
            "ml-intern", "run", "implement DeepSeek-V3 at 1M", "--until", "implement", "--slug", "wheel",
            "--runs-dir", "runs", "--time-budget", "3m", "--max-paths", "1", "--new",
        )  # fmt: skip


@nox.session
def slow(session: nox.Session) -> None:
    """Minutes each: a kill after every single write, the whole main job at its real size."""
    _install(session, "-e", ".[test]")
    session.run("pytest", "-m", "slow", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """Needs an accelerator and a torch build for it."""
    _install(session, "-e", ".[test]")
    session.run("pytest", "-m", "gpu", *session.posargs)


@nox.session
def live(session: nox.Session) -> None:
    """Needs the internet, and HF_TOKEN for what publishes."""
    _install(session, "-e", ".[test]")
    session.run("pytest", "-m", "live", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Figures, as ratios in one run; nothing here passes or fails."""
    _install(session, "-e", ".[test]")
    session.run("python", "benchmarks/throughput.py", *session.posargs)


@nox.session
def defects(session: nox.Session) -> None:
    """Planted defects: five minutes that guard the judge; `-- --jobs 2` runs all, which takes hours."""
    _install(session, "-e", ".[test]")
    session.run("python", "-m", "benchmarks.defects", *(session.posargs or ["--fast"]))


def _install(session: nox.Session, *what: str) -> None:
    session.install("-c", "constraints.txt", *what)
