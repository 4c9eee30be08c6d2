"""VERIFY.md: the six checks of the seed, recomputed from the checkpoint, and the probes below them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field

from ml_intern_cli.documents.draft import Draft, nearest
from ml_intern_cli.documents.form import Form, join_blocks
from ml_intern_cli.documents.markdown import Kind, Section, outline
from ml_intern_cli.documents.model import Loss, Model, Verdict
from ml_intern_cli.documents.parts import Records, fenced, fits_fence
from ml_intern_cli.documents.probe import ProbeResult
from ml_intern_cli.documents.values import TEXT, field_types, quote


class Judgement(Model):
    """A verdict and the one-line reason with the measured value and the threshold."""

    verdict: Verdict
    reason: str


class GenerationSample(Model):
    """One prompt, what the model wrote (verbatim), and what was measured on it."""

    prompt: str
    output: str
    judgement: Judgement


class Verify(Model):
    """The six checks and the probes. Losses are in nats per token. ``None``: could not be computed."""

    samples: tuple[GenerationSample, ...]
    generation: Judgement  # over all samples
    final_train_loss: Loss | None
    final_eval_loss: Loss | None
    plausible_low: Loss
    plausible_high: Loss
    loss: Judgement
    eval_train_gap: Loss | None = Field(default=None, ge=0)
    tracks: Judgement
    planned_tokens: int = Field(gt=0)
    consumed_tokens: int = Field(ge=0)
    data: Judgement
    stderr_findings: tuple[str, ...]  # each one explained or the reason of the failure
    stderr: Judgement
    target_params: int = Field(gt=0)
    actual_params: int = Field(ge=0)
    params: Judgement
    probes: tuple[ProbeResult, ...] = ()

    @property
    def judgements(self) -> dict[str, Judgement]:
        """The six, by the name of their section."""
        return {
            "Generation samples": self.generation,
            "Loss sanity": self.loss,
            "Eval tracks train": self.tracks,
            "Data consumption": self.data,
            "Stderr scan": self.stderr,
            "Param count": self.params,
        }

    @property
    def failures(self) -> dict[str, str]:
        """Why it failed, by the name of the check or probe; the checks first."""
        checks = {name: one.reason for name, one in self.judgements.items() if one.verdict is Verdict.FAIL}
        return checks | {probe.name: probe.finding for probe in self.probes if probe.failed}

    @property
    def first_failure(self) -> str | None:
        """The name of the first failing check or probe, or None when all pass."""
        return next(iter(self.failures), None)

    @property
    def passed(self) -> bool:
        """Whether all checks and probes pass."""
        return not self.failures


_SETTING = re.compile(r"(\|eval - train\||[a-z][a-z_ ]*?)\s*=\s*(\[[^\]]*\]|[^\s(]+)")
_MARKED = re.compile(r"[*_]*(PROMPT|OUTPUT|VERDICT)[*_]*:(?:\*\*|__)?\s*(.*)")
_VERDICT = re.compile(r"(\w*)\s*(?:[—–:-]\s*(.*))?")
_LABELS = {"|eval - train|": "eval_train_gap", "target": "target_params", "actual": "actual_params"}
_CLEAN = "clean"


@dataclass(frozen=True)
class _Check:
    """``label = value`` lines and the verdict on them."""

    name: str  # of the judgement
    fields: tuple[str, ...]
    template: str

    @property
    def names(self) -> tuple[str, ...]:
        """The fields."""
        return (*self.fields, self.name)

    def read(self, section: Section, draft: Draft) -> None:
        """Put the values and the judgement."""
        types = field_types(Verify)
        for line, words in section.lines:
            if _put_verdict(self.name, line, words, draft):
                continue
            for name, text in _settings(words):
                if name in self.fields:
                    draft.put((name,), types[name].read(text), line)
                elif nearest(name, self.fields):
                    draft.unknown(line, name, self.fields)

    def write(self, document: Model) -> str:
        """The lines, to the letter of the seed."""
        assert isinstance(document, Verify)  # noqa: S101, these parts are only in the form of Verify
        # Other tools read these numbers, so they are not grouped.
        values = {
            name: field_type.write(getattr(document, name)).replace(",", "")
            for name, field_type in field_types(Verify).items()
        }
        share = document.consumed_tokens / document.planned_tokens
        drift = document.actual_params / document.target_params - 1
        lines = self.template.format(**values, share=share, drift=drift)
        return f"{lines}\n{_write_verdict(getattr(document, self.name))}"


class _Samples:
    """One PROMPT, OUTPUT, VERDICT per sample, then the verdict on all of them."""

    names = ("samples", "generation")

    def read(self, section: Section, draft: Draft) -> None:
        """Put the samples and the judgement."""
        draft.put(("samples",), [], section.line)
        sample: dict[str, object] = {}
        for mark, text, line in _marked(section):
            if mark == "PROMPT":
                sample = {"prompt": TEXT.read(text)}
                draft.append(("samples",), sample, line)
            elif mark == "OUTPUT":
                sample["output"] = text
            elif "judgement" in sample or "prompt" not in sample:
                draft.put(("generation",), _read_verdict(text), line)
            else:
                sample["judgement"] = _read_verdict(text)

    def write(self, document: Model) -> str:
        """The samples, a blank line between two."""
        assert isinstance(document, Verify)  # noqa: S101, these parts are only in the form of Verify
        samples = [
            f"PROMPT: {quote(one.prompt)}\n{_write_output(one.output)}\n{_write_verdict(one.judgement)}"
            for one in document.samples
        ]
        return "\n\n".join([*samples, _write_verdict(document.generation)])


class _Findings:
    """One finding per line, or the word "clean", and the verdict."""

    names = ("stderr_findings", "stderr")

    def read(self, section: Section, draft: Draft) -> None:
        """Put the findings and the judgement."""
        draft.put(("stderr_findings",), [], section.line)
        for line, words in section.lines:
            if not _put_verdict("stderr", line, words, draft) and words.strip() != _CLEAN:
                draft.append(("stderr_findings",), TEXT.read(words), line)

    def write(self, document: Model) -> str:
        """The lines; quoted where they would read differently."""
        assert isinstance(document, Verify)  # noqa: S101, these parts are only in the form of Verify
        lines = [TEXT.write(finding) for finding in document.stderr_findings]
        read = [words for _, words in outline("\n".join(lines))[0].lines]
        if read != lines or any(_MARKED.match(words) or words == _CLEAN for words in lines):
            lines = [quote(finding) for finding in document.stderr_findings]
        return "\n".join([*(lines or [_CLEAN]), _write_verdict(document.stderr)])


_FORM = Form(
    Verify,
    sections={
        "Generation samples": (_Samples(),),
        "Loss sanity": (
            _Check(
                "loss",
                ("final_train_loss", "final_eval_loss", "plausible_low", "plausible_high"),
                "final_train_loss = {final_train_loss}\n"
                "final_eval_loss  = {final_eval_loss}\n"
                "plausible range  = [{plausible_low}, {plausible_high}]",
            ),
        ),
        "Eval tracks train": (_Check("tracks", ("eval_train_gap",), "|eval - train| = {eval_train_gap}"),),
        "Data consumption": (
            _Check(
                "data",
                ("planned_tokens", "consumed_tokens"),
                "planned_tokens = {planned_tokens}\nconsumed_tokens = {consumed_tokens}  (M/N = {share:.1%})",
            ),
        ),
        "Stderr scan": (_Findings(),),
        "Param count": (
            _Check(
                "params",
                ("target_params", "actual_params"),
                "target = {target_params}  actual = {actual_params}  drift = {drift:+.2%}",
            ),
        ),
        "Probes": (Records("probes", ProbeResult),),
    },
)
parse = _FORM.parse


def render(document: Verify) -> str:
    """The text that says this document, to the letter of the seed: no blank line below a heading."""
    blocks = _FORM.blocks(document)
    return join_blocks(
        [f"{heading}\n{body}" for heading, body in zip(blocks[::2], blocks[1::2], strict=True)]
    )


def _settings(words: str) -> Iterator[tuple[str, str]]:
    """The ``label = value`` pairs of a line, each with the field that the label stands for."""
    for label, text in _SETTING.findall(words):
        if label == "plausible range":
            low, _, high = text.strip("[]").partition(",")
            yield from (("plausible_low", low), ("plausible_high", high))
        else:
            yield _LABELS.get(label, label), text


def _marked(section: Section) -> Iterator[tuple[str, str, int]]:
    """The PROMPT, OUTPUT and VERDICT lines; the text of an OUTPUT may stand in a fence below it."""
    for block in section.blocks:
        if block.kind is Kind.FENCE:
            yield "OUTPUT", block.text, block.line
            continue
        for line, words in block.lines:
            match = _MARKED.fullmatch(words.strip())
            if match and match[1] != "OUTPUT":
                yield match[1], match[2], line
            elif match and match[2]:
                yield "OUTPUT", str(TEXT.read(match[2])), line


def _put_verdict(name: str, line: int, words: str, draft: Draft) -> bool:
    match = _MARKED.fullmatch(words.strip())
    if match is None or match[1] != "VERDICT":
        return False
    draft.put((name,), _read_verdict(match[2]), line)
    return True


def _read_verdict(text: str) -> dict[str, object]:
    match = _VERDICT.fullmatch(text)
    verdict, reason = match.groups() if match else (text, None)
    return {"verdict": verdict.casefold(), "reason": TEXT.read(reason or "")}


def _write_verdict(judgement: Judgement) -> str:
    reason = TEXT.write(judgement.reason)
    return f"VERDICT: {judgement.verdict}" + (f" — {reason}" if reason else "")


def _write_output(output: str) -> str:
    written = TEXT.write(output)
    if written != output and fits_fence(output):
        return f"OUTPUT:\n{fenced(output)}"
    return f"OUTPUT: {written or quote(written)}"
