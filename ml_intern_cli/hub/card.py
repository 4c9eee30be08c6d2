"""The model card: README.md of a published model, with measured numbers and the files they stand in."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ml_intern_cli.documents.manifest import Manifest
from ml_intern_cli.documents.model import Verdict
from ml_intern_cli.documents.plan import Plan
from ml_intern_cli.documents.results import ResultRow, Results
from ml_intern_cli.documents.task import Task
from ml_intern_cli.documents.verify import GenerationSample, Verify
from ml_intern_cli.resources import resource

_GIT_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Fact:
    """One row of the summary: a number, and the file of the bundle that it comes from."""

    key: str
    value: str
    source: str


def render_card(
    *,
    name: str,
    task: Task,
    plan: Plan,
    manifest: Manifest,
    results: Results,
    verify: Verify,
    best_checkpoint: dict[str, Any],
    elapsed_s: float | None,
    host: str | None,
    is_standard: bool = True,
) -> str:
    """README.md, front matter included, of the publication ``name``; its address is not known yet.

    ``best_checkpoint`` is ckpts/best.json, ``elapsed_s`` the time of training, and ``host`` the machine
    in words, left out when ``None``. ``is_standard``: transformers knows the architecture.
    """
    from jinja2 import Environment, StrictUndefined

    template = resource("templates", "documents", "model_card.md.j2").read_text(encoding="utf-8")
    # Markdown, so nothing is escaped as HTML; what users wrote enters as values, never as source.
    environment = Environment(  # noqa: S701
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"line": _line, "cell": _cell}
    sample = _sample(verify)
    return environment.from_string(template).render(
        name=name,
        metadata=_front_matter(task=task, plan=plan, manifest=manifest, is_standard=is_standard),
        architecture=plan.architecture,
        is_standard=is_standard,
        params=verify.actual_params,
        request=task.request,
        host=host,
        facts=_facts(plan, manifest, results, verify, best_checkpoint, elapsed_s=elapsed_s, host=host),
        sample=sample,
        fence=_fence(sample.output) if sample else "",
        manifest=manifest,
        deviations=results.deviations,
    )


def _front_matter(*, task: Task, plan: Plan, manifest: Manifest, is_standard: bool) -> list[tuple[str, str]]:
    """Keys and their values as YAML; every string is written as JSON, which YAML contains."""
    metadata: dict[str, Any] = {
        "library_name": "transformers" if is_standard else "pytorch",
        "pipeline_tag": "text-generation",
        "tags": ["ml-intern", str(task.kind), plan.architecture],
        "license": "apache-2.0",
    }
    # A commit is pinned for data from the Hub and for nothing else; only that may be linked there.
    if _GIT_COMMIT.fullmatch(manifest.revision):
        metadata["datasets"] = [manifest.source.partition(":")[0]]  # without the configuration
    return [(key, json.dumps(value, ensure_ascii=False)) for key, value in metadata.items()]


def _facts(
    plan: Plan,
    manifest: Manifest,
    results: Results,
    verify: Verify,
    best_checkpoint: dict[str, Any],
    *,
    elapsed_s: float | None,
    host: str | None,
) -> list[Fact]:
    winner = _winner(results)
    rows = (
        ("param_count", f"{verify.actual_params:,}", "VERIFY.md"),
        # Of something new the plan knows only what the blueprint has that it started from.
        ("active_params_per_token", None if plan.starts_from else f"{plan.active_params:,}", "PLAN.md"),
        ("dataset", f"{manifest.source} at {manifest.revision}", "data_manifest.json"),
        ("tokens", f"{verify.consumed_tokens:,}", "VERIFY.md"),
        ("init_loss", _loss(winner.init_loss), "train.log"),
        ("final_loss", _loss(verify.final_train_loss), "VERIFY.md"),
        ("final_eval_loss", _loss(verify.final_eval_loss), "VERIFY.md"),
        ("best_eval_loss", _loss(best_checkpoint.get("eval_loss")), "eval.log"),
        ("unigram_loss", _loss(manifest.unigram_loss), "data_manifest.json"),
        ("loss_floor", _loss(manifest.loss_floor), "data_manifest.json"),
        (
            "tokens_per_s",
            None if winner.tokens_per_s is None else f"{winner.tokens_per_s:,.0f}",
            "metrics.jsonl",
        ),
        ("wall_clock_hours", None if elapsed_s is None else f"{elapsed_s / 3600:.2f}", "metrics.jsonl"),
        ("hardware", host, "measured by ml-intern"),
    )
    return [Fact(key, value, source) for key, value, source in rows if value is not None]


def _winner(results: Results) -> ResultRow:
    return next(row for row in results.rows if row.path_id == results.winner)


def _sample(verify: Verify) -> GenerationSample | None:
    """The first passing sample, an unprompted one only when there is no other."""
    passing = [sample for sample in verify.samples if sample.judgement.verdict is Verdict.PASS]
    return min(passing, key=lambda sample: not sample.prompt, default=None)


def _loss(nats: float | None) -> str | None:
    return None if nats is None else f"{nats:.4f}"


def _line(text: str) -> str:
    """Text on one line."""
    return " ".join(text.split())


def _cell(text: str) -> str:
    """Text that stays inside one cell of a table."""
    return _line(text).replace("|", "\\|")


def _fence(text: str) -> str:
    """A code fence longer than any run of backticks in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    return "`" * max(3, longest + 1)
