"""Mixtures of experts: so many per token as configured, weighed as configured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.probes.anatomy import setting

if TYPE_CHECKING:
    from torch import nn

    from ml_intern_cli.judge.probes.bench import Bench

_NUM_EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts", "n_experts", "moe_num_experts")
_PER_TOKEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "n_activated_experts",
    "n_experts_per_tok",
    "moe_top_k",
    "moe_topk",
    "num_selected_experts",
    "top_k_experts",
    "top_k",
)
_NORMALISED = ("norm_topk_prob", "norm_top_k_prob", "normalize_topk", "normalise_topk", "renormalize")
_TOKENS = 8


def _experts(model: nn.Module, count: int) -> dict[str, list[tuple[str, int | None]]]:
    """Group → for each of its experts the parameter and the slice of it that is one weight of this expert."""
    from torch import nn

    groups: dict[str, list[tuple[str, int | None]]] = {}
    for name, parameter in model.named_parameters():
        owner = model.get_submodule(name.rpartition(".")[0])
        is_convolution = isinstance(owner, (nn.Conv1d, nn.Conv2d))
        if parameter.ndim > 2 and parameter.shape[0] == count and not is_convolution:
            groups[name] = [(name, index) for index in range(count)]
    for name, container in model.named_modules():
        if not isinstance(container, nn.ModuleList) or len(container) != count:
            continue
        first = [next(iter(member.named_parameters()), None) for member in container]
        shapes = {tuple(one[1].shape) for one in first if one is not None}
        if None not in first and len(shapes) == 1 and "layer" not in name.rpartition(".")[2]:
            groups[name] = [
                (f"{name}.{index}.{one[0]}", None) for index, one in enumerate(first) if one is not None
            ]
    return groups


def _experts_per_token(bench: Bench) -> Measurement:
    import torch

    config = bench.config
    count, wanted = setting(config, *_NUM_EXPERTS), setting(config, *_PER_TOKEN)
    model = bench.drawn
    groups = _experts(model, count) if isinstance(count, int) and count > 1 else {}
    if not groups or not isinstance(wanted, int):
        return Measurement(passed=True, measured="config.json names no experts per token", allowed="-")
    fired: dict[str, list[int]] = {name: [] for name in groups}
    ids = bench.random_ids(1)[0, :_TOKENS]
    generator = torch.Generator().manual_seed(bench.seed)
    for token in ids:
        model.zero_grad(set_to_none=True)
        logits = bench.logits(model, token.view(1, 1))
        direction = torch.randn(logits.shape, generator=generator).to(logits)
        with bench.artifact.foreign_code("the backward pass"):
            (logits * direction).sum().backward()  # type: ignore[no-untyped-call]
        for name, members in groups.items():
            fired[name].append(sum(_has_gradient(model, *member) for member in members))
    model.zero_grad(set_to_none=True)
    wrong = {name: counts for name, counts in fired.items() if any(counts) and set(counts) != {wanted}}
    seen = sorted({one for counts in fired.values() for one in counts if any(counts)})
    return Measurement(
        passed=not wrong,
        measured=f"{' or '.join(map(str, seen)) or 'no'} of {count} experts per token",
        allowed=f"{wanted} for each of {len(ids)} tokens alone, in every layer",
        component=next(iter(wrong), ""),
        detail=f"{next(iter(wrong))}: {', '.join(map(str, next(iter(wrong.values()))))}" if wrong else "",
    )


def _has_gradient(model: nn.Module, name: str, index: int | None) -> bool:
    gradient = model.get_parameter(name).grad
    if gradient is None:
        return False
    return bool((gradient if index is None else gradient[index]).any())


EXPERTS_PER_TOKEN = Probe(
    name="experts-per-token",
    category=Category.MODEL,
    meaning="as many experts work on a token as config.json says",
    threshold="exactly that many get a gradient from one token alone, in every layer with experts",
    threshold_source="an expert that is not chosen, or weighed with zero, gets a gradient of exactly zero",
    usual_causes=(
        "top-k of another k",
        "the best expert only",
        "all experts computed and summed",
        "a mask over the wrong dimension",
    ),
    run=_experts_per_token,
)

_UNMOVED = 1e-4


def _gate_weights(bench: Bench) -> Measurement:
    import torch

    config = bench.config
    count, wanted = setting(config, *_NUM_EXPERTS), setting(config, *_PER_TOKEN)
    normalised = setting(config, *_NORMALISED)
    model = bench.redrawn(seed=1) if isinstance(normalised, bool) and isinstance(count, int) else None
    groups = _experts(model, count) if model is not None else {}
    if model is None or not groups or not isinstance(wanted, int) or wanted >= count:
        return Measurement(
            passed=True, measured="config.json does not say how gates are normalised", allowed="-"
        )
    routers = _routers(model, count)
    _make_experts_equal(model, groups)
    ids = bench.random_ids(2)
    generator = torch.Generator().manual_seed(bench.seed + 2)
    moved = {}
    with torch.no_grad():
        before = bench.logits(model, ids)
        for name in routers:
            router = model.get_parameter(name)
            kept = router.clone()
            router.copy_(torch.randn(router.shape, generator=generator).to(router) / router.shape[-1] ** 0.5)
            moved[name] = float((bench.logits(model, ids) - before).abs().max() / before.abs().max())
            router.copy_(kept)
    wrong = [name for name, size in moved.items() if (size <= _UNMOVED) is not normalised]
    sizes = f"{min(moved.values()):.2g} to {max(moved.values()):.2g}" if moved else "nothing"
    return Measurement(
        passed=not wrong,
        measured=f"redrawing a router between equal experts moves the logits by {sizes} of the largest",
        allowed=f"{'≤' if normalised else '>'} {_UNMOVED:.0e} of the largest",
        component=wrong[0] if wrong else "",
        detail=(
            f"the gates of {wrong[0]} do {'not ' if normalised else ''}sum to a constant, "
            f"config.json says {'they do' if normalised else 'they do not'}"
            if wrong
            else ""
        ),
    )


def _routers(model: nn.Module, count: int) -> list[str]:
    """Matrices with one row per expert, but for those of the experts and the output head."""
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and parameter.shape[0] == count and ".experts." not in name
    ]


def _make_experts_equal(model: nn.Module, groups: dict[str, list[tuple[str, int | None]]]) -> None:
    """Copies the first expert over the others: their sum is then one expert times the sum of the gates."""
    import torch

    with torch.no_grad():
        for name, members in groups.items():
            if members[0][1] is not None:
                stacked = model.get_parameter(name)
                stacked.copy_(stacked[:1].expand_as(stacked).clone())
            else:
                first = model.get_submodule(f"{name}.0")
                for index in range(1, len(members)):
                    model.get_submodule(f"{name}.{index}").load_state_dict(first.state_dict())


GATE_WEIGHTS = Probe(
    name="gate-weights",
    category=Category.MODEL,
    meaning="the weights of a token's experts sum to a constant if, and only if, config.json says so",
    threshold="with all experts equal, redrawing a router moves the logits by ≤ 1e-4 of the largest, or more",
    threshold_source=(
        "equal experts give their output times the sum of the gates, whichever are chosen; float32 rounding "
        "is 1e-6, a sum that depends on the router moves it by 1e-2"
    ),
    usual_causes=(
        "top-k weights not divided by their sum",
        "softmax over all experts and no renormalisation",
        "norm_topk_prob read nowhere",
    ),
    run=_gate_weights,
)
