"""PLAN.md: every number of the run, and the candidate paths."""

from __future__ import annotations

import re
from enum import StrEnum

from pydantic import Field, JsonValue, field_validator

from ml_intern_cli.documents.draft import Draft
from ml_intern_cli.documents.form import Form, join_blocks
from ml_intern_cli.documents.markdown import Section, outline
from ml_intern_cli.documents.model import Model, PathId, Rate, Seconds, SeqLen, refuse_duplicates
from ml_intern_cli.documents.parts import (
    Bullets,
    Json,
    Records,
    Text,
    table_rows,
    write_cell,
    write_table,
)
from ml_intern_cli.documents.values import TEXT, FieldType, field_types, quote


class Precision(StrEnum):
    """The arithmetic of the forward and backward pass; weights and optimizer stay fp32."""

    FP32 = "fp32"
    BF16 = "bf16"


class Schedule(StrEnum):
    """How the learning rate goes from its peak, after the warm-up, to its minimum."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


class PlannedFile(Model):
    """A file that implement puts into each path."""

    name: str
    purpose: str


class PathPlan(Model):
    """One candidate solution: what it is, why it might win, and every training number."""

    id: PathId
    approach: str  # one line; the ledger's column
    variant: str  # the blueprint's code: "own", "transformers"
    hypothesis: str
    why: str  # why it might win
    slice_s: Seconds = Field(gt=0)  # of compute for its training
    judging_s: Seconds = Field(ge=0)  # of compute set aside for its smoke and verification
    retry_of: PathId | None = None
    steps: int = Field(gt=0)
    micro_batch: int = Field(gt=0)  # sequences per forward pass
    accumulation: int = Field(gt=0)  # forward passes per optimizer step
    learning_rate: float = Field(gt=0)
    min_learning_rate: float = Field(ge=0)
    warmup_steps: int = Field(ge=0)
    schedule: Schedule = Schedule.COSINE
    weight_decay: float = Field(ge=0)
    beta1: float = Field(ge=0, lt=1)
    beta2: float = Field(ge=0, lt=1)
    grad_clip: float = Field(gt=0)
    precision: Precision
    compile: bool = False
    num_threads: int = Field(gt=0)
    eval_every: int = Field(gt=0)  # steps
    checkpoint_every: int = Field(gt=0)  # steps
    seed: int = Field(ge=0)
    measured_tokens_per_s: Rate = Field(gt=0)  # by calibration on this machine


_DESCRIPTION = Bullets(PathPlan, ("variant", "hypothesis", "why", "slice_s", "judging_s", "retry_of"))
_NUMBERS = tuple(
    name for name in PathPlan.model_fields if name not in {"id", "approach", *_DESCRIPTION.names}
)


class Source(Model):
    """Where a number comes from."""

    number: str  # a field name of PathPlan or Plan
    source: str


class Plan(Model):
    """What will be built, on what data, with which numbers, on which paths."""

    summary: str  # one line
    architecture: str
    starts_from: str | None = None  # the blueprint that a new architecture is built from
    params_target: int = Field(gt=0)
    params_planned: int = Field(gt=0)  # counted, tied weights once
    active_params: int = Field(gt=0)  # per token
    dataset: str
    dataset_revision: str
    tokenizer: str
    vocab_size: int = Field(gt=1)
    seq_len: SeqLen = Field(gt=1)
    tokens_per_path: int = Field(gt=0)  # largest of the paths
    success_criterion: str
    files: tuple[PlannedFile, ...]
    config: dict[str, JsonValue]  # the architecture's configuration; config.json without _model_class
    sources: tuple[Source, ...]
    paths: tuple[PathPlan, ...] = Field(min_length=1)

    @field_validator("paths")
    @classmethod
    def _one_plan_per_path(cls, paths: tuple[PathPlan, ...]) -> tuple[PathPlan, ...]:
        refuse_duplicates(path.id for path in paths)
        return paths

    @field_validator("sources")
    @classmethod
    def _numbers_in_order(cls, sources: tuple[Source, ...]) -> tuple[Source, ...]:
        """One source per number; those of the paths' numbers first, as the table lists them."""
        refuse_duplicates(source.number for source in sources)
        ranks = {name: rank for rank, name in enumerate(_NUMBERS)}
        return tuple(sorted(sources, key=lambda source: ranks.get(source.number, len(ranks))))

    @property
    def blueprint(self) -> str:
        """The blueprint whose sizing, recipe and code the paths start from."""
        return self.starts_from or self.architecture

    def tokens_per_step(self, path: PathPlan) -> int:
        """Training tokens of one optimizer step."""
        return path.micro_batch * path.accumulation * self.seq_len

    def tokens(self, path: PathPlan) -> int:
        """Training tokens that a path is to consume."""
        return path.steps * self.tokens_per_step(path)

    def path(self, path_id: str) -> PathPlan:
        """The path of that id. Raises KeyError."""
        for path in self.paths:
            if path.id == path_id:
                return path
        raise KeyError(path_id)


class _Numbers:
    """Every training number, one column per path, and where it comes from.

    A source of any other number, such as ``seq_len``, stands in a row without values.
    """

    names = ("sources",)
    _source = FieldType(str, is_optional=True)

    def read(self, section: Section, draft: Draft) -> None:
        """Put each number in its path and each source in the list. The paths must have been put before."""
        draft.put(self.names, [], section.line)
        types = field_types(PathPlan)
        paths = {f"path {path['id']}": place for place, path in draft.items("paths")}
        for line, cells in table_rows(section, draft, ["number", *paths, "source"]):
            number = str(TEXT.read(cells.pop("number", "")))
            source = self._source.read(cells.pop("source", ""))
            if source is not None:
                draft.append(self.names, {"number": number, "source": source}, line)
            if number in _NUMBERS:
                for column, cell in cells.items():
                    draft.put((*paths[column], number), types[number].read(cell), line)
            elif source is None or any(cells.values()):
                draft.unknown(line, number, _NUMBERS)

    def write(self, document: Model) -> str:
        """The table."""
        assert isinstance(document, Plan)  # noqa: S101, this part is only in the form of Plan
        types = field_types(PathPlan)
        sources = {source.number: source.source for source in document.sources}
        rows = []
        for number in (*_NUMBERS, *(name for name in sources if name not in _NUMBERS)):
            known = number in _NUMBERS
            values = [
                write_cell(types[number], getattr(path, number)) if known else "" for path in document.paths
            ]
            source = write_cell(self._source, sources.get(number))
            rows.append([write_cell(TEXT, number), *values, source])
        return write_table(["number", *(f"path {path.id}" for path in document.paths), "source"], rows)


_FORM = Form(
    Plan,
    title="Plan",
    sections={
        "Summary": (Text("summary"),),
        "Numbers": (_Numbers(),),
        "Success criterion": (Text("success_criterion"),),
        "Model": (
            Bullets(
                Plan, ("architecture", "starts_from", "params_target", "params_planned", "active_params")
            ),
            Json("config"),
        ),
        "Data": (
            Bullets(
                Plan, ("dataset", "dataset_revision", "tokenizer", "vocab_size", "seq_len", "tokens_per_path")
            ),
        ),
        "Files": (Records("files", PlannedFile),),
    },
)
_PATH_TITLE = re.compile(
    r"path\s+(?P<id>\w[\w-]*)(?:(?:\s*[—–:]|\s-)\s*(?P<approach>.*))?",
    re.IGNORECASE,
)


def parse(text: str, *, source: str) -> Plan:
    """The plan that a text says. Raises InvalidDocument with everything that is wrong."""
    draft = Draft(source)
    draft.put(("paths",), [], 1)
    others = [section for section in outline(text) if not _read_path(section, draft)]
    _FORM.read(others, draft)
    return draft.finish(Plan)


def render(document: Plan) -> str:
    """The text that says this plan: its paths, a section each, before the numbers they differ in."""
    blocks = _FORM.blocks(document)
    at = blocks.index("## Numbers")
    paths = [block for path in document.paths for block in (_path_heading(path), _DESCRIPTION.write(path))]
    return join_blocks([*blocks[:at], *paths, *blocks[at:]])


def _read_path(section: Section, draft: Draft) -> bool:
    """Put the path that a section describes, if it is such a section."""
    match = _PATH_TITLE.fullmatch(section.title)
    if match is None or not section.level:
        return False
    if match["id"] in (path["id"] for _, path in draft.items("paths")):
        draft.problem(section.line, "paths", f"{match['id']} appears twice")
        return True
    place = draft.append(("paths",), {"id": match["id"]}, section.line)
    if match["approach"] is not None:
        draft.put((*place, "approach"), TEXT.read(match["approach"]), section.line)
    _DESCRIPTION.read(section, draft, at=place)
    return True


def _path_heading(path: PathPlan) -> str:
    plain = f"Path {path.id} — {TEXT.write(path.approach)}"
    reads_back = outline(f"## {plain}")[-1].title == plain
    return f"## {plain}" if reads_back else f"## Path {path.id} — {quote(path.approach)}"
