"""What the stored numbers say by themselves: finite, alive, distinct, tied as declared, and trained."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_intern_cli.judge.artifact import Unusable
from ml_intern_cli.judge.audit.bench import AuditBench
from ml_intern_cli.judge.audit.files import CONFIG
from ml_intern_cli.judge.probe import Category, Measurement, Probe

if TYPE_CHECKING:
    import torch

_LEAST_ELEMENTS = 1024  # smaller matrices can agree, or look random, by chance
_LEAST_SIDE = 16
_MOST_NAMED = 4
_POWER_STEPS = 24
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Facts:
    """What one pass over a stored tensor leaves."""

    name: str
    size: int
    is_matrix: bool
    bad: int  # numbers that are NaN or infinite
    is_constant: bool
    digest: str
    fresh_slices: tuple[str, ...]  # those that look as drawn; "" for the whole of a plain matrix
    slices: int


def facts_of(bench: AuditBench) -> dict[str, Facts]:
    """Of every stored tensor, by name; read one at a time. Raises Unusable."""

    def read() -> dict[str, Facts]:
        return {name: _facts(name, tensor) for name, tensor in _stored(bench)}

    return bench.once("facts", read)


def _stored(bench: AuditBench) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    if bench.files.faults:
        raise Unusable(bench.files.faults[0].text)
    for file in bench.files.weight_files:
        try:
            with safe_open(bench.files.directory / file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118, it is no mapping
                    yield name, opened.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise Unusable(f"{file} cannot be read: {error}") from error


def _facts(name: str, tensor: torch.Tensor) -> Facts:
    import torch

    is_matrix = tensor.ndim >= 2 and tensor.is_floating_point() and tensor.numel() >= _LEAST_ELEMENTS
    wide = tensor.float() if tensor.is_floating_point() else tensor
    bad = int((~torch.isfinite(wide)).sum()) if tensor.is_floating_point() else 0
    is_constant = tensor.numel() > 1 and bool((wide == wide.flatten()[0]).all())
    slices = _slices(wide) if is_matrix and not bad and not is_constant else []
    return Facts(
        name=name,
        size=tensor.numel(),
        is_matrix=is_matrix,
        bad=bad,
        is_constant=is_constant,
        digest=hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        if tensor.numel()
        else "",
        fresh_slices=tuple(label for label, matrix in slices if _is_as_drawn(matrix)),
        slices=len(slices),
    )


def _slices(tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """The matrices of a tensor: itself, or one per expert."""
    if tensor.ndim == 2:
        found = [("", tensor)]
    elif tensor.ndim == 3:
        found = [(f"[{number}]", one) for number, one in enumerate(tensor)]
    else:
        found = []  # convolutions: too narrow for the statistics below
    return [
        (label, one)
        for label, one in found
        if min(one.shape) >= _LEAST_SIDE and one.numel() >= _LEAST_ELEMENTS
    ]


def _is_as_drawn(matrix: torch.Tensor) -> bool:
    """Whether a matrix is what independent draws of one distribution give.

    Its largest singular value then lies at the edge of the Marchenko-Pastur law, σ(√m + √n), its rows and
    columns have norms that differ by chance alone, and its kurtosis is that of the normal or the uniform
    distribution. Training leaves a spike above the edge: at least 1.11 times it in the models measured
    (64 wide, 400 steps), while fresh draws stay below 1.03 from 32 x 64 on.
    """
    import torch

    rows, columns = matrix.shape
    centred = (matrix - matrix.mean()).double() if matrix.numel() < 1 << 22 else matrix - matrix.mean()
    deviation = float(centred.std())
    kurtosis = float((centred / deviation).pow(4).mean()) - 3.0
    error = (24 / matrix.numel()) ** 0.5
    is_normal, is_uniform = abs(kurtosis) < 5 * error, abs(kurtosis + 1.2) < 5 * error + 0.01
    if not (is_normal or is_uniform):
        return False
    energy = (centred / deviation).pow(2)
    spread = max(
        float(energy.mean(1).std()) * (columns / 2) ** 0.5, float(energy.mean(0).std()) * (rows / 2) ** 0.5
    )
    if spread > 1.5:
        return False
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(columns, generator=generator).to(centred)
    largest = 0.0
    for _ in range(_POWER_STEPS):
        image = centred @ (vector / vector.norm())
        largest = float(image.norm())
        vector = centred.T @ image
    return largest < 1.05 * deviation * float(rows**0.5 + columns**0.5)


def _finite(bench: AuditBench) -> Measurement:
    bad = [one for one in facts_of(bench).values() if one.bad]
    return Measurement(
        passed=not bad,
        measured=f"{len(bad)} tensors with numbers that are not finite",
        allowed="0",
        component=bad[0].name if bad else "",
        detail="; ".join(f"{one.name}: {one.bad:,} of {one.size:,}" for one in bad[:_MOST_NAMED]),
    )


WEIGHTS_FINITE = Probe(
    name="weights-finite",
    category=Category.ARTIFACT,
    meaning="every stored number is finite",
    threshold="no NaN, no infinity",
    threshold_source="exact",
    usual_causes=("a training that diverged", "fp16 that overflowed when it was converted"),
    run=_finite,
)


def _alive(bench: AuditBench) -> Measurement:
    dead = [one for one in facts_of(bench).values() if one.is_matrix and one.is_constant]
    return Measurement(
        passed=not dead,
        measured=f"{len(dead)} constant matrices",
        allowed="0",
        component=dead[0].name if dead else "",
        detail="all numbers are the same in " + ", ".join(one.name for one in dead[:_MOST_NAMED])
        if dead
        else "",
    )


WEIGHTS_ALIVE = Probe(
    name="weights-alive",
    category=Category.MODEL,
    meaning="no weight matrix is all zeros, or all one number",
    threshold="no constant matrix",
    threshold_source="exact; a constant matrix passes nothing on, and training never leaves one",
    usual_causes=("a projection that starts at zero and got no gradient", "a tensor that was never filled"),
    run=_alive,
)


def _distinct(bench: AuditBench) -> Measurement:
    alike: dict[str, list[str]] = defaultdict(list)
    for one in facts_of(bench).values():
        if one.is_matrix and not one.is_constant:
            alike[one.digest].append(one.name)
    tied = set(_embeddings(bench))
    groups = [names for names in alike.values() if len(names) > 1 and not set(names) <= tied]
    return Measurement(
        passed=not groups,
        measured=f"{sum(map(len, groups))} matrices that are copies of another",
        allowed="0",
        component=_holder(groups[0][-1]) if groups else "",
        detail="; ".join(" = ".join(names[:_MOST_NAMED]) for names in groups[:_MOST_NAMED]),
    )


def _holder(name: str) -> str:
    """``model.layers.2`` of ``model.layers.2.mlp.up_proj.weight``; the name itself outside of layers."""
    found = _LAYER.search(name)
    return name[: found.end(1)] if found else name


WEIGHTS_DISTINCT = Probe(
    name="weights-distinct",
    category=Category.MODEL,
    meaning="no two weight matrices are the same, bit for bit, but for tied embeddings",
    threshold="no copies",
    threshold_source="exact; two trained matrices of a thousand numbers never agree by chance",
    usual_causes=(
        "one layer used twice where two were meant",
        "experts copied from one another and never trained",
        "a merge that stacked a layer twice",
    ),
    run=_distinct,
)


def _ties(bench: AuditBench) -> Measurement:
    config = bench.model.config
    declared = bool(getattr(config.get_text_config(), "tie_word_embeddings", False))
    names = _embeddings(bench)
    if len(names) < 2:
        return Measurement(passed=True, measured="no output embedding to tie", allowed="-")
    facts = facts_of(bench)
    into, out = names
    stored = [name for name in names if name in facts]
    are_equal = len(stored) < 2 or facts[into].digest == facts[out].digest
    said = f"tie_word_embeddings is {str(declared).lower()}"
    problem = component = ""
    if declared and not are_equal:
        problem, component = f"{said}, but {into} and {out} are stored with different numbers", out
    elif not declared and len(stored) == 1:
        (name,) = set(names) - set(stored)
        problem, component = f"{said}, but {name} is not stored", name
    elif not declared and are_equal:
        problem = f"{said}, but {into} and {out} are stored with the same numbers"
        component = f"{CONFIG}: tie_word_embeddings"
    return Measurement(
        passed=not problem,
        measured=f"{len(stored)} stored, {'equal' if are_equal else 'different'}",
        allowed="one, or two equal, when tied; two different ones when not",
        component=component,
        detail=problem,
    )


def _embeddings(bench: AuditBench) -> tuple[str, ...]:
    """The names of the weights of the input and the output embedding, as far as there are any."""
    try:
        model = bench.model
    except Unusable:
        return ()
    with bench.foreign_code("asking for the embeddings"):
        modules: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    by_module = {id(module): name for name, module in model.named_modules()}
    return tuple(
        f"{by_module[id(one)]}.weight" for one in modules if one is not None and id(one) in by_module
    )


TIES = Probe(
    name="checkpoint-ties",
    category=Category.ARTIFACT,
    meaning="input and output embedding are one where config.json ties them, and two where it does not",
    threshold="tie_word_embeddings says what the stored numbers are",
    threshold_source="exact, bit for bit",
    usual_causes=(
        "tied weights that were trained or saved apart",
        "a default of tie_word_embeddings that is not the model's",
    ),
    run=_ties,
)


def _trained(bench: AuditBench) -> Measurement:
    facts = [one for one in facts_of(bench).values() if one.slices]
    fresh = [f"{one.name}{label}" for one in facts for label in one.fresh_slices]
    count = sum(one.slices for one in facts)
    return Measurement(
        passed=not fresh,
        measured=f"{len(fresh)} of {count} matrices look as freshly drawn",
        allowed="0",
        component=("the whole model" if len(fresh) == count else fresh[0]) if fresh else "",
        detail=", ".join(fresh[:_MOST_NAMED]),
    )


WEIGHTS_TRAINED = Probe(
    name="weights-trained",
    category=Category.TRAINING,
    meaning="no weight matrix is what its random initialisation would be",
    threshold="largest singular value ≥ 1.05 σ(√m + √n), or rows, columns, kurtosis not of chance",
    threshold_source="the Marchenko-Pastur law; trained matrices measured from 1.11, fresh ones up to 1.03",
    usual_causes=(
        "a parameter that was left out of the optimizer or frozen by mistake",
        "an expert that never fires",
        "a tensor that was missing and filled at random before it was saved again",
    ),
    run=_trained,
)

PROBES = (WEIGHTS_FINITE, WEIGHTS_ALIVE, WEIGHTS_DISTINCT, TIES, WEIGHTS_TRAINED)
