"""Where the weights are from: this seed, this many steps of this optimizer, and no other training."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ml_intern_cli.documents import leavings
from ml_intern_cli.judge.artifact import read_checkpoint
from ml_intern_cli.judge.claims.bench import ClaimBench
from ml_intern_cli.judge.claims.logs import scheduled_rate
from ml_intern_cli.judge.probe import Category, Measurement, Probe

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]

_LEAST_DESCENT = 6.0  # standard deviations
_LEAST_ELEMENTS = 256
_OPTIMIZER = "optimizer.safetensors"
_FREEZING = re.compile(r"requires_grad_\(|requires_grad\s*=[^=]")
"""Code that says so may leave parameters out of the optimizer; whether it meant those, a rehearsal sees."""
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_STEP_OF_ADAM = 2.0  # learning rates that one update moves a weight by, at most
_ALLOWED = (
    f"optimizer of this step, initial weights of the seed (≥ {_LEAST_DESCENT:.0f} σ), moves within the rates"
)


class _Foreign(Exception):
    """The weights are not from this training: what shows it, and how."""

    def __init__(self, component: str, told: str) -> None:
        super().__init__(told)
        self.component = component


def _checkpoint_origin(bench: ClaimBench) -> Measurement:
    try:
        held = list(_evidence(bench))
    except _Foreign as foreign:
        return Measurement(
            passed=False,
            measured="not from this training",
            allowed=_ALLOWED,
            component=foreign.component,
            detail=str(foreign),
        )
    return Measurement(passed=True, measured=", ".join(held) or "nothing to compare", allowed=_ALLOWED)


def _evidence(bench: ClaimBench) -> Iterator[str]:
    last = str(bench.records.last.get("dir", "")).rpartition("/")[2]
    folder = bench.artifact.directory / "ckpts" / last
    has_optimizer = (folder / _OPTIMIZER).is_file()
    if has_optimizer:
        yield _optimizer_fits(bench, last)
    elif _OPTIMIZER in _text_of(bench, "train.py"):
        raise _Foreign(f"ckpts/{last}", f"has no {_OPTIMIZER}, which train.py saves")
    if last != bench.checkpoint and has_optimizer:
        yield _best_leads_to_last(bench, last)
    if bench.setting("seed") is not None:
        yield _descends_from_seed(bench, is_adam=has_optimizer)


def _optimizer_fits(bench: ClaimBench, last: str) -> str:
    """AdamW's moments: of every trained parameter, of this step, and possible ones."""
    import torch

    moments = read_checkpoint(bench.artifact, last, _OPTIMIZER)
    step = bench.records.state.get("step")
    beta1, beta2 = bench.number("beta1") or 0.9, bench.number("beta2") or 0.999
    # Cauchy-Schwarz on the two weighted sums of the same gradients.
    largest = math.sqrt((1 - beta1) ** 2 / (1 - beta2) / max(1e-6, 1 - beta1**2 / beta2))
    freezes = any(_FREEZING.search(_text_of(bench, name)) for name in ("train.py", "model.py"))
    steps, is_moving = [], False
    for name, entry in bench.model.state.items():
        if not entry.is_trainable or entry.tied_to != name:
            continue
        found = [moments.get(f"{name}.{kind}") for kind in _MOMENTS]
        first, second, count = found
        if first is None or second is None or count is None:
            if freezes:
                continue
            raise _Foreign(name, f"the optimizer of {last} has no state for it: it was never updated")
        if tuple(first.shape) != entry.shape or tuple(second.shape) != entry.shape:
            raise _Foreign(name, f"the optimizer of {last} has moments of shape {list(first.shape)} for it")
        if not bool(torch.isfinite(first).all() and torch.isfinite(second).all() and (second >= 0).all()):
            raise _Foreign(name, f"the optimizer of {last} has moments that are not finite or below zero")
        if bool((first.abs() > largest * 1.01 * second.sqrt() + 1e-12).any()):
            raise _Foreign(
                name, f"the optimizer of {last} has a mean gradient larger than its mean square allows"
            )
        steps.append(int(count))
        is_moving |= bool((first != 0).any())
    if steps and max(steps) != step:
        raise _Foreign(
            f"ckpts/{last}", f"the optimizer has made {max(steps)} updates, state.json says step {step}"
        )
    if steps and not is_moving:
        raise _Foreign(f"ckpts/{last}", "every moment of the optimizer is zero")
    return f"optimizer at step {step}"


def _best_leads_to_last(bench: ClaimBench, last: str) -> str:
    """From the best checkpoint to the last one no weight moves further than the rates allow."""
    import torch

    later = read_checkpoint(bench.artifact, last)
    first, final = bench.records.best_step, bench.records.step
    allowed = _most_move(bench, bench.weights, first, final)
    moved, name = _largest_move(bench, bench.weights, later)
    if allowed is not None and moved > allowed:
        raise _Foreign(
            name,
            f"moves by {moved:.3g} from step {first} to step {final}, the learning rates allow {allowed:.3g}",
        )
    same = all(torch.equal(later[key], bench.weights[key]) for key in bench.weights if key in later)
    if same and first < final:
        raise _Foreign(f"ckpts/{last}", f"the weights of step {final} are those of step {first}")
    return f"{final - first} steps after the best move a weight by ≤ {moved:.2g}"


def _descends_from_seed(bench: ClaimBench, *, is_adam: bool) -> str:
    """The trained weights still look like the initial ones, which the seed gives again.

    Initial weights of another seed are independent of them: the correlation of n elements then is
    1/sqrt(n) in size, and the standardised sum over tensors a standard normal.
    """
    seed = bench.setting("seed") or 0
    try:
        bench.trainer.build(seed)
        initial = bench.trainer.get()
    finally:
        bench.trainer.build(0)
        bench.restore()
    score = _likeness(bench, initial)
    if score is not None and score < _LEAST_DESCENT:
        raise _Foreign(
            f"ckpts/{bench.checkpoint}",
            (
                f"the weights are {score:.1f} σ like those that seed {seed} starts from, those of"
                f" another seed are 0"
            ),
        )
    allowed = _most_move(bench, bench.weights, 0, bench.records.best_step) if is_adam else None
    moved, name = _largest_move(bench, initial, bench.weights)
    if allowed is not None and moved > allowed:
        raise _Foreign(
            name,
            (
                f"moved by {moved:.3g} in {bench.records.best_step} steps, the learning rates allow"
                f" {allowed:.3g}"
            ),
        )
    return "no random weights" if score is None else f"seed {seed} at {score:.0f} σ"


def _likeness(bench: ClaimBench, initial: Tensors) -> float | None:
    """The standardised correlation with the initial weights; None when none were random."""
    total, count = 0.0, 0
    for name, start in initial.items():
        entry = bench.model.state.get(name)
        if entry is None or not entry.is_parameter or start.numel() < _LEAST_ELEMENTS:
            continue
        before = start.double().flatten() - start.double().mean()
        after = bench.weights[name].double().flatten() if name in bench.weights else before
        after = after - after.mean()
        size = float(before.norm() * after.norm())
        if size > 0:
            total += float(before @ after) / size * math.sqrt(len(before))
            count += 1
    return total / math.sqrt(count) if count else None


def _most_move(bench: ClaimBench, weights: Tensors, first: int, last: int) -> float | None:
    """The furthest that AdamW can take a weight in steps ``first`` to ``last``, from the scheduled rates."""
    names = ("learning_rate", "min_learning_rate", "warmup_steps", "steps", "weight_decay")
    values = [bench.number(name) for name in names]
    schedule = bench.settings.get("schedule")
    if any(value is None for value in values) or schedule not in {"cosine", "linear", "constant"}:
        return None
    peak, lowest, warmup, steps, decay = (float(value or 0.0) for value in values)
    rates = sum(
        scheduled_rate(step, schedule=str(schedule), peak=peak, lowest=lowest, warmup=warmup, steps=steps)
        for step in range(first, last)
    )
    largest = max(float(tensor.abs().max()) for tensor in weights.values() if tensor.numel())
    return rates * (_STEP_OF_ADAM + decay * (largest + _STEP_OF_ADAM * rates)) + 1e-6


def _largest_move(bench: ClaimBench, before: Tensors, after: Tensors) -> tuple[float, str]:
    moves = {
        name: float((after[name].double() - tensor.double()).abs().max())
        for name, tensor in before.items()
        if name in after and tensor.numel() and bench.model.state[name].is_trainable
    }
    name = max(moves, key=lambda key: moves[key]) if moves else ""
    return moves.get(name, 0.0), name


def _text_of(bench: ClaimBench, name: str) -> str:
    try:
        return leavings.read_text(bench.artifact.directory, name, errors="replace")
    except OSError:
        return ""


CHECKPOINT_ORIGIN = Probe(
    name="checkpoint-origin",
    category=Category.REPORTING,
    meaning="the weights come from the training that the logs tell of: its seed, its steps, its optimizer",
    threshold=(
        "moments of every trained parameter and of this step, none larger than its mean square allows;"
        " weights that"
        f" are {_LEAST_DESCENT:.0f} standard deviations like the seed's initial ones; no weight moved"
        f" further than"
        " the learning rates allow"
    ),
    threshold_source=(
        "the bounds are AdamW's own; against the initial weights of another seed the score is a standard"
        " normal,"
        " which passes 6 once in a thousand million; five sound trainings measured 141 and more"
    ),
    usual_causes=(
        "a checkpoint of another run was put in its place",
        "the weights were not drawn from the seed in train_config.json",
        "a parameter was left out of the optimizer",
        "the optimizer's state was lost or reset when training went on",
    ),
    run=_checkpoint_origin,
)
