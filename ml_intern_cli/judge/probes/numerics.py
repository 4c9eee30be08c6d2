"""In which precision a model computes, and what it does differently in training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ml_intern_cli.judge.artifact import Unusable, judge_device
from ml_intern_cli.judge.evaluation import logits_of, token_losses
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.probes.anatomy import setting, settings_like
from ml_intern_cli.judge.probes.blame import culprit, module_name, unequal
from ml_intern_cli.judge.probes.recording import recording

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ml_intern_cli.judge.probes.bench import Bench

_SENSITIVE = ("softmax", "log_softmax", "nll_loss", "cross_entropy", "logsumexp", "log", "exp")
_SHORT = 64  # tokens


def _precision(bench: Bench) -> Measurement:
    import torch

    declared = str(setting(bench.config, "torch_dtype", "dtype") or "float32").removeprefix("torch.")
    model = bench.drawn
    stored = [
        (name, str(tensor.dtype).removeprefix("torch."))
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if tensor.is_floating_point() and tensor.numel() > 1  # a rounded scalar is a choice
    ]
    problems = [
        (name, f"{name} is stored in {dtype}")
        for name, dtype in stored
        if dtype != declared and dtype in ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
    ]
    parameters = {name for name, _ in model.named_parameters()}
    problems += [
        (name, f"{name} is stored in {dtype}")
        for name, dtype in stored
        if name in parameters and dtype == "float64" and declared != "float64"
    ]
    if declared == "float32" and not problems:
        inputs, targets = (one[:, :_SHORT] for one in bench.text(2, bench.length))
        with torch.no_grad(), recording(model, length=-1, calls=False, operations=True) as record:
            bench.logits(model, inputs)
            bench.objective(model, inputs, targets)
        for operation, where in record.half_precision.items():
            kind, _, dtype = operation.partition(" in ")
            if dtype == "float16" or kind.strip("_") in _SENSITIVE:
                name = module_name(model, where)
                problems.append((name, f"{kind.strip('_')} in {dtype} in {name}"))
        logits = _raw_logits(bench, model, inputs)
        if logits.dtype in (torch.float16, torch.bfloat16):
            problems.append((type(model).__name__, f"logits in {str(logits.dtype).removeprefix('torch.')}"))
    return Measurement(
        passed=not problems,
        measured=f"{len(problems)} places below {declared}" if problems else f"{declared} throughout",
        allowed=f"weights and buffers in {declared}; softmax, loss and logits in no half precision",
        component=problems[0][0] if problems else "",
        detail="; ".join(text for _, text in problems[:4]),
    )


def _raw_logits(bench: Bench, model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    import torch

    with torch.no_grad():
        return logits_of(bench.artifact, model, inputs)


PRECISION = Probe(
    name="precision",
    category=Category.MODEL,
    meaning="weights are in the precision that config.json says; nothing delicate is computed in a lower one",
    threshold="no float16 operation, and no softmax, logarithm, loss or logits in bfloat16, outside autocast",
    threshold_source="seen operation by operation; float16 ends at 65,504 and loses gradients below 6e-8",
    usual_causes=(
        ".half() inside the forward pass",
        "a buffer made in half precision",
        "torch.set_default_dtype",
    ),
    run=_precision,
)

_AUTOCAST_LOSS = 0.05


def _autocast(bench: Bench) -> Measurement:
    import torch

    model = bench.drawn
    inputs, targets = (one[:, :_SHORT] for one in bench.text(2, bench.length))
    try:
        with torch.no_grad():
            with torch.autocast(judge_device().type, dtype=torch.bfloat16):
                low = logits_of(bench.artifact, model, inputs)
            full = logits_of(bench.artifact, model, inputs)
    except Unusable:
        return Measurement(passed=True, measured="does not run under autocast", allowed="-")
    losses = [float(token_losses(one, targets).mean()) for one in (low, full)]
    allowed = _AUTOCAST_LOSS * max(1.0, losses[1])
    passed = abs(losses[0] - losses[1]) <= allowed  # also false for NaN
    return Measurement(
        passed=passed,
        measured=f"loss {losses[0]:.4f} in bfloat16, {losses[1]:.4f} in float32",
        allowed=f"|Δ| ≤ {allowed:.2g}",
        component="" if passed else type(model).__name__,
    )


AUTOCAST = Probe(
    name="autocast",
    category=Category.MODEL,
    meaning="under bfloat16 autocast, as on an accelerator, the model computes the same but for rounding",
    threshold="finite, and the loss of redrawn weights within 5 %",
    threshold_source=(
        "bfloat16 keeps 8 bits: 0.4 % per operation, which averages out over tokens to below 1 % of the loss"
    ),
    usual_causes=("a mask value that overflows", "a sum over many small numbers in half precision"),
    run=_autocast,
)

RATE_ROUNDING = 1e-6
_DROPOUT = r"drop(out|path)?(_|$)|_pdrop|dropout"


def dropout_rates(model: nn.Module) -> list[tuple[str, float]]:
    """Every dropout layer, and the share that it drops."""
    from torch.nn.modules.dropout import _DropoutNd  # the family has no public name

    return [(name, module.p) for name, module in model.named_modules() if isinstance(module, _DropoutNd)]


def _train_mode(bench: Bench) -> Measurement:
    import torch

    model = bench.drawn
    rates = {
        name: float(value)
        for name, value in settings_like(bench.config, _DROPOUT)
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    ids = bench.random_ids(2)[:, :_SHORT]
    model.train()
    try:
        with torch.no_grad():
            same = [bench.logits(model, ids) for _ in range(2)]  # from the same seed
            trained = same[0]
            repeats = same[0].equal(same[1])
            component = "" if repeats else culprit(bench, model, ids, ids, differs=unequal)
    finally:
        model.eval()
    with torch.no_grad():
        evaluated = bench.logits(model, ids)
    noisy = not trained.equal(evaluated)
    modules = dropout_rates(model)
    rate = max(rates.values(), default=0.0)
    louder = [(name, own) for name, own in modules if own > rate + RATE_ROUNDING]
    detail = ""
    if not repeats:
        detail = "in train mode the same seed gives other logits"
    elif rate > 0 and not noisy:
        detail = f"config.json sets {_first_positive(rates)}, and train mode computes what eval mode does"
        component = next((name for name, _ in modules), type(model).__name__)
    elif rates and louder:
        component, own = louder[0]
        detail = f"{component} drops {own:g}, config.json sets {_first_positive(rates) or 'no dropout'}"
    return Measurement(
        passed=not detail,
        measured=f"{'repeats' if repeats else 'does not repeat'}, {'noisy' if noisy else 'as eval mode'}",
        allowed=f"repeats, {'noisy' if rate > 0 else 'dropout as in config.json'}",
        component=component,
        detail=detail,
    )


def _first_positive(rates: dict[str, float]) -> str:
    return next((f"{name} = {rate:g}" for name, rate in rates.items() if rate > 0), "")


TRAIN_MODE = Probe(
    name="dropout-mode",
    category=Category.MODEL,
    meaning="in train mode the same seed gives the same logits, and dropout is active as config.json says",
    threshold=(
        "identical logits twice; other ones than in eval mode if, and only if, a dropout rate is set; no"
        " layer drops more than that"
    ),
    threshold_source="torch draws dropout from its seeded generator; eval mode is held still by determinism",
    usual_causes=(
        "functional dropout without training=self.training",
        "a rate that is read nowhere",
        "noise from random or numpy",
        "state that a forward pass changes",
    ),
    run=_train_mode,
)

_PREFIX, _NEW = 6, 6


def _generation(bench: Bench) -> Measurement:
    import inspect

    import torch

    model = bench.drawn
    generate = getattr(model, "generate", None)
    nothing = Measurement(
        passed=True, measured="no generate() that can be asked for the likeliest tokens", allowed="-"
    )
    if not callable(generate):
        return nothing
    parameters = inspect.signature(generate).parameters
    greedy: dict[str, Any] = {"do_sample": False} if "do_sample" in parameters else {}
    if not greedy and "top_k" in parameters:
        greedy = {"top_k": 1}
    takes_length = "max_new_tokens" in parameters
    samples = {"temperature", "top_p", "generator", "seed"} & set(parameters)
    if (
        not takes_length
        or (samples and not greedy)
        or any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    ):
        return nothing
    ids = bench.random_ids(1)[:, : min(_PREFIX, max(1, bench.length - _NEW))]
    with torch.no_grad():
        try:
            with bench.artifact.foreign_code("generate()"):
                given = generate(ids.clone(), max_new_tokens=_NEW, **greedy)
        except Unusable as error:
            return Measurement(
                passed=False,
                measured="raised",
                allowed=f"{_NEW} tokens",
                component=f"{type(model).__name__}.generate",
                detail=str(error),
            )
        expected = ids
        for _ in range(_NEW):
            expected = torch.cat([expected, bench.logits(model, expected)[:, -1:].argmax(-1)], dim=1)
    own = given if isinstance(given, torch.Tensor) else torch.tensor([])
    tail = own[..., -_NEW:] if own.shape[-1:] == expected.shape[-1:] else own
    passed = tail.shape[-1:] == (_NEW,) and tail.flatten().tolist() == expected[0, -_NEW:].tolist()
    return Measurement(
        passed=passed,
        measured=f"{tail.flatten().tolist()[:12]}",
        allowed=f"{expected[0, -_NEW:].tolist()}, the likeliest token of the logits each time",
        component="" if passed else f"{type(model).__name__}.generate",
        detail="" if passed else "generate() does not continue as the logits of a full forward pass say",
    )


GENERATION = Probe(
    name="generation",
    category=Category.MODEL,
    meaning="generate(), with its cache if it has one, writes what the logits without a cache say",
    threshold="as many tokens as asked for, each the likeliest under a forward pass over all before it",
    threshold_source="the same function of the same tokens; redrawn weights leave no ties",
    usual_causes=(
        "positions that start at zero with a cache",
        "keys and values of the wrong step",
        "a mask of the wrong length",
        "max_new_tokens not heeded",
    ),
    run=_generation,
)
