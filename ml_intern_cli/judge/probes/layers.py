"""Is every layer there, used once, its own; does it pass on its input, and is it normalised."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from ml_intern_cli.judge.artifact import Unusable
from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.probes.anatomy import Layer, setting, settings_like
from ml_intern_cli.judge.probes.recording import recording

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ml_intern_cli.judge.probes.bench import Bench

_SHARING = r"shar|recur|universal|loop|repeat|cycle|tie_layers|layer_tying|num_hidden_groups"
"""Settings by which an architecture says that layers share weights or run several times."""


def _layer_calls(bench: Bench) -> Measurement:
    import torch
    from torch import nn

    model = bench.instrument.model
    inputs, targets = bench.text(2, min(bench.length, 16))
    with torch.no_grad():
        with recording(model, length=inputs.shape[1], calls=True) as forward:
            bench.logits(model, inputs)
        with recording(model, length=inputs.shape[1], calls=True) as learning:
            bench.objective(model, inputs, targets)
    counts = Counter(call.name for call in forward.calls)
    used = {call.name for call in (*forward.calls, *learning.calls)}
    sequences = {call.name for call in forward.calls if any(one.ndim > 2 for one in call.inputs)}
    canonical = {id(module): name for name, module in model.named_modules()}
    problems = []
    checked = 0
    for stack, container in model.named_modules():
        if not isinstance(container, (nn.ModuleList, nn.Sequential)):
            continue
        places: dict[str, list[str]] = defaultdict(list)  # module → where it stands in the list
        for index, member in enumerate(container):
            places[canonical[id(member)]].append(f"{stack}.{index}")
        if not sequences & set(places):
            continue  # experts are called as tokens come; an unused list is found by its gradients
        checked += len(container)
        problems += [
            (where[1], f"{where[1]} is the same module as {where[0]}")
            for name, where in places.items()
            if len(where) > 1 and next(model.get_submodule(name).parameters(), None) is not None
        ]
        for kind in {type(member) for member in container}:
            family = [name for name in places if type(model.get_submodule(name)) is kind]
            calls = {name: counts[name] / len(places[name]) for name in family if counts[name]}
            usual = Counter(calls.values()).most_common(1)[0][0] if calls else 0
            for name in family:
                if calls.get(name, usual) != usual:
                    problems.append((name, f"{name} is called {counts[name]} times, others {usual:g}"))
                if calls and not any(one == name or one.startswith(f"{name}.") for one in used):
                    problems.append((name, f"{name} is never called"))
    problems = [] if any(value for _, value in settings_like(bench.config, _SHARING)) else problems
    problems += _shared_parameters(bench, model)
    problems += _missing_layers(bench, [call.name for call in forward.calls])
    return Measurement(
        passed=not problems,
        measured=f"{len(problems)} of {checked} layers out of line",
        allowed="each called as often as the others, each with its own weights",
        component=problems[0][0] if problems else "",
        detail="; ".join(text for _, text in problems[:4]),
    )


_NUM_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "layers", "depth")


def _missing_layers(bench: Bench, called: list[str]) -> list[tuple[str, str]]:
    """The list with more or fewer layers than config.json says; none when one or all together fit."""
    declared = setting(bench.config, *_NUM_LAYERS)
    if not isinstance(declared, int) or any(value for _, value in settings_like(bench.config, _SHARING)):
        return []
    counts = Counter(layer.stack for layer in bench.anatomy.layers if layer.name in called)
    # A list of groups of layers has a divisor of the number; half of the layers may stand in each of two.
    fits = [count for count in counts.values() if count == declared or (count > 1 and declared % count == 0)]
    if not counts or fits or sum(counts.values()) == declared:
        return []
    stack, count = counts.most_common(1)[0]
    return [(stack, f"{count} layers of {stack} are run, config.json says {declared}")]


def _shared_parameters(bench: Bench, model: nn.Module) -> list[tuple[str, str]]:
    """Parameters that two different members of one list have in common."""
    if any(value for _, value in settings_like(bench.config, _SHARING)):
        return []
    owners: dict[int, str] = {}
    problems: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = owners.setdefault(parameter.data_ptr(), name)
        member, other = _members(name), _members(first)
        if first != name and member and other and member[0] == other[0] and member[1] != other[1]:
            place = f"{member[0]}.{member[1]}"
            problems.setdefault(place, f"{name} is {first}")
    return list(problems.items())


def _members(name: str) -> tuple[str, str] | None:
    """``("blocks", "3")`` of ``blocks.3.attention.weight``: the outermost list and the place in it."""
    found = re.match(r"(.*?)\.(\d+)\.", name)
    return (found[1], found[2]) if found else None


LAYER_CALLS = Probe(
    name="layer-calls",
    category=Category.MODEL,
    meaning="every layer of a list is called as often as the others, and has weights of its own",
    threshold=(
        "equal counts within a list and class; no parameter in two members of a list; "
        "as many layers as config.json says"
    ),
    threshold_source=(
        "counted by hooks during a forward pass; config.json may say otherwise by a setting on "
        "sharing, recurrence or loops"
    ),
    usual_causes=(
        "a loop that starts at 1 or ends early",
        "[Block(config)] * n, which is one block n times",
        "a layer called twice after a merge",
        "one layer fewer than configured",
    ),
    run=_layer_calls,
)

_CORRELATION = 0.1
_STEP = 1e-4
_LOUD = 4.0  # of the hidden states, by root mean square, so that normalised branches are the smaller part


def _residual_stream(bench: Bench) -> Measurement:
    anatomy = bench.anatomy
    found = {}
    for layer in anatomy.layers:
        correlation = _pass_through(bench, layer)
        if correlation is not None:
            found[layer.name] = (layer, correlation)
    by_stack: dict[tuple[str, type], list[tuple[Layer, float]]] = defaultdict(list)
    for layer, correlation in found.values():
        by_stack[layer.stack, type(layer.call.module)].append((layer, correlation))
    dropped = []
    for family in by_stack.values():
        passing = sum(correlation >= _CORRELATION for _, correlation in family)
        for layer, correlation in family:
            expects = layer.has_attention or passing > len(family) / 2
            if expects and correlation < _CORRELATION:
                dropped.append((layer.name, correlation))
    lowest = min((correlation for _, correlation in found.values()), default=None)
    return Measurement(
        passed=not dropped,
        measured="no layers found"
        if lowest is None
        else f"correlation ≥ {lowest:.2f} in {len(found)} layers",
        allowed=f"≥ {_CORRELATION}",
        component=dropped[0][0] if dropped else "",
        detail=(
            f"{dropped[0][0]} does not pass on its input (correlation {dropped[0][1]:.3f})" if dropped else ""
        ),
    )


def _scaled(hidden: torch.Tensor, size: float) -> torch.Tensor:
    """Hidden states of this root mean square."""
    return hidden * (size / float(hidden.square().mean().sqrt()))


def _pass_through(bench: Bench, layer: Layer) -> float | None:
    """How much of a small change of the input is in the change of the output: 1 for the identity."""
    import torch

    generator = torch.Generator().manual_seed(bench.seed)
    change = torch.randn(layer.hidden.shape, generator=generator).to(layer.hidden)
    step = _STEP if layer.hidden.dtype is torch.float64 else 1e-2
    hidden = _scaled(layer.hidden, _LOUD)
    before = bench.anatomy.replay(layer.call, hidden)
    after = bench.anatomy.replay(layer.call, hidden + step * change)
    if before is None or after is None:
        return None
    moved = after - before
    size = float(moved.norm() * change.norm())
    return float((moved * change).sum()) / size if size else 0.0


RESIDUAL_STREAM = Probe(
    name="residual-stream",
    category=Category.MODEL,
    meaning="a layer with attention adds to its input and does not replace it; so do the others of its list",
    threshold="correlation ≥ 0.1 of a small change of a layer's input with that of its output",
    threshold_source=(
        "1/sqrt(1 + g²) for branches of gain g, 0.3 even for g = 3; below 2/width without the identity"
    ),
    usual_causes=(
        "x = attention(x) in place of x = x + attention(x)",
        "a residual added to the wrong tensor",
    ),
    run=_residual_stream,
)

_SCALE = 1e3
_GROWTH = 0.02
_LOGITS_GROWTH = 30.0


def _normalisation(bench: Bench) -> Measurement:
    layers = [layer for layer in bench.anatomy.layers if layer.has_attention]
    growth = {}
    for layer in layers:
        large = _scaled(layer.hidden, _SCALE)
        output = bench.anatomy.replay(layer.call, large)
        if output is not None:
            growth[layer.name] = _unnormalised(large, output)
    loud = {name: share for name, share in growth.items() if not share <= _GROWTH}
    if loud:
        name = next(iter(loud))
        return Measurement(
            passed=False,
            measured=f"{loud[name]:.2g} of an input of size {_SCALE:.0f} comes back beside the residual",
            allowed=f"≤ {_GROWTH}",
            component=name,
            detail=f"a branch of {', '.join(list(loud)[:3])} is not normalised",
        )
    ratio = _logits_growth(bench, layers[-1]) if layers else None
    too_loud = ratio is not None and not ratio <= _LOGITS_GROWTH
    return Measurement(
        passed=not too_loud,
        measured=(
            "no layer with attention"
            if ratio is None
            else f"share ≤ {max(growth.values(), default=0.0):.2g}, logits x{ratio:.2g}"
        ),
        allowed=f"share ≤ {_GROWTH}, logits x{_LOGITS_GROWTH:.0f} for an input x{_SCALE:.0f}",
        component=f"{type(bench.anatomy.model).__name__}.forward" if too_loud else "",
        detail="nothing normalises what goes into the output head" if too_loud else "",
    )


def _unnormalised(given: torch.Tensor, output: torch.Tensor) -> float:
    """What a layer adds beside a multiple of each channel of its input, as a share of that input."""
    x, y = given.flatten(0, -2), output.flatten(0, -2)
    multiple = (x * y).sum(0) / x.square().sum(0).clamp_min(1e-30)
    return float((y - multiple * x).norm() / x.norm())


def _logits_growth(bench: Bench, last: Layer) -> float | None:
    """How much larger the logits become when the last layer's input does, by root mean square."""
    import torch

    anatomy = bench.anatomy

    def amplify(_module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        return tuple(map(larger, args)), {key: larger(value) for key, value in kwargs.items()}

    def larger(value: object) -> object:
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.shape == last.hidden.shape:
            return value * _SCALE
        return value

    with torch.no_grad():
        before = bench.logits(anatomy.model, anatomy.ids)
        handle = last.call.module.register_forward_pre_hook(amplify, with_kwargs=True)  # type: ignore[arg-type]
        try:
            after = bench.logits(anatomy.model, anatomy.ids)
        except Unusable:
            return float("inf")
        finally:
            handle.remove()
    return float(after.square().mean().sqrt() / before.square().mean().sqrt())


NORMALISATION = Probe(
    name="normalisation",
    category=Category.MODEL,
    meaning="layers with attention, and the output head, do not care how large the residual stream is",
    threshold=(
        "for an input 1,000 times larger, beside a multiple of it at most 0.02 of it comes out of a layer, "
        "and logits grow at most 30 times"
    ),
    threshold_source=(
        "a normalised branch adds 1e-3 of that input, a bare one 0.1 and more; logits do not change below "
        "a final norm and grow 1,000 times without one"
    ),
    usual_causes=(
        "a norm left out before a branch",
        "no norm before the output head",
        "the norm of another branch applied, its result unused",
    ),
    run=_normalisation,
)


def _same_initialisation(bench: Bench) -> Measurement:
    model, redrawn = bench.model(), dict(bench.artifact.build(bench.seed + 1).named_parameters())
    seen: dict[tuple[tuple[int, ...], float, float], str] = {}
    problems = []
    total = 0
    for name, parameter in model.named_parameters():
        # What another seed draws the same is not drawn: ones, zeros, fixed decays.
        if parameter.ndim < 2 or parameter.equal(redrawn[name].to(parameter)):
            continue
        total += 1
        values = parameter.detach()
        first = seen.setdefault((tuple(values.shape), *_print(values)), name)
        if first != name and values.equal(model.get_parameter(first)):
            problems.append((name, f"{name} starts with the numbers of {first}"))
        if values.ndim > 2 and len(values) > 1 and _same_slices(values):
            problems.append((name, f"{name} starts with equal slices"))
    return Measurement(
        passed=not problems,
        measured=f"{len(problems)} of {total} drawn weights repeat another's numbers",
        allowed="0",
        component=problems[0][0] if problems else "",
        detail="; ".join(text for _, text in problems[:4]),
    )


def _print(values: torch.Tensor) -> tuple[float, float]:
    """Two numbers that hardly two drawn tensors share."""
    return float(values.double().sum()), float(values.double().square().sum())


def _same_slices(values: torch.Tensor) -> bool:
    flat = values.flatten(1)
    return bool((flat == flat[:1]).all()) and bool((flat[0] != flat[0, 0]).any())


SAME_INITIALISATION = Probe(
    name="same-initialisation",
    category=Category.MODEL,
    meaning="no two weights that are drawn at random start with the same numbers",
    threshold="no two equal matrices, no stack of equal matrices",
    threshold_source=(
        "two draws of a float32 matrix are never the same; what does not depend on the seed is left out"
    ),
    usual_causes=(
        "copy.deepcopy of one block",
        "the seed set again for every layer",
        "one expert expanded to all",
    ),
    run=_same_initialisation,
)


def _symmetry(bench: Bench) -> Measurement:
    flat, trained = bench.overfitted.flat, bench.overfitted.model
    stuck = []
    total = 0
    for name, parameter in trained.named_parameters():
        # Only what started flat can be stuck; experts that were given no token are as they were.
        if (
            not parameter.requires_grad
            or parameter.ndim < 2
            or min(parameter.shape[-2:]) < 2
            or name not in flat
        ):
            continue
        total += 1
        values = parameter.detach()
        if is_flat(values) and not _has_moved_sibling(name, trained, flat):
            stuck.append(name)
    return Measurement(
        passed=not stuck,
        measured=f"{len(stuck)} of {total} flat matrices still so after {bench.overfitted.steps} steps",
        allowed="0",
        component=stuck[0] if stuck else "",
        detail=f"{', '.join(stuck[:4])}: all rows are the same, and stay so" if stuck else "",
    )


def is_flat(values: torch.Tensor) -> bool:
    """Whether all rows of a matrix, or of every matrix in a stack, are the same, or all columns."""
    rows = (values == values[..., :1, :]).all()
    columns = (values == values[..., :, :1]).all()
    return bool(rows | columns)


def _has_moved_sibling(name: str, model: nn.Module, flat: frozenset[str]) -> bool:
    """Whether the same weight of another expert of the layer has come to life."""
    if "expert" not in name:
        return False
    pattern = re.compile(re.sub(r"\\\.\d+\\\.(?!.*\\\.\d+\\\.)", r"\\.\\d+\\.", re.escape(name)))
    return any(
        one != name and one in flat and pattern.fullmatch(one) and not is_flat(parameter.detach())
        for one, parameter in model.named_parameters()
    )


SYMMETRY = Probe(
    name="symmetry",
    category=Category.MODEL,
    meaning="the units of every weight matrix come to differ: no matrix starts flat and stays so in training",
    threshold="no matrix whose rows or columns are all equal before and after the steps of overfit-one-batch",
    threshold_source=(
        "equal units get equal gradients, and two zero matrices in a row get none; a zero output projection "
        "of a drawn branch, which is sound, differs after one step"
    ),
    usual_causes=("weights initialised to one constant", "both matrices of a branch initialised to zero"),
    run=_symmetry,
)
