"""Who sees whom, where in the sequence, and how sharply: attention scores, taken before the softmax."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ml_intern_cli.judge.probe import Category, Measurement, Probe
from ml_intern_cli.judge.probes.anatomy import setting, settings_like

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ml_intern_cli.judge.probes.bench import Bench
    from ml_intern_cli.judge.probes.recording import Call, Scores

_POSITIONS = re.compile(
    r"rope|rotary|alibi|pos_emb|position_emb|positional|^wpe$|^positions?$|inv_freq", re.IGNORECASE
)
_MIXED = r"no_rope|nope_(layers|interval)|layer_types|hybrid|layers_block_type"
"""Settings by which an architecture says that its layers are of several kinds."""

_BLIND = 1e-8  # share of the largest output
_ROUNDING = 1e-5  # of scores, where tables of angles are in float32
_TOEPLITZ = 1e-2  # share of the spread of the scores
_NEAREST = 64  # distances up to here are all tried, further ones where a period is likely


def _positions(bench: Bench) -> Measurement:
    if bench.anatomy.length < 4:
        return Measurement(passed=True, measured="windows too short to tell", allowed="-")
    blind, tried, first = _unseen_swaps(bench)
    crooked, ordered = _crooked(bench)
    problem, component = "", ""
    if tried and 0 < len(blind) < tried:
        last = bench.length - 2
        problem = f"swapping tokens {blind[0]} and {last} changes nothing: they have the same position"
        component = _position_holder(bench) or first
    elif tried and len(blind) == tried and _declares_positions(bench):
        problem = "the first layer is blind to the order of the tokens, though the model has positions"
        component = _position_holder(bench) or first
    elif crooked:
        component, share = crooked[0]
        problem = (
            f"between equal tokens the scores of {component} depend on where they stand, and not only on "
            f"how far apart (by {share:.0%} of their spread)"
        )
    else:
        odd = _odd_one_out(bench, ordered)
        if odd:
            component, problem = odd, f"{odd} knows no positions, the other layers' attention does"
    return Measurement(
        passed=not problem,
        measured=(
            f"{len(blind)} of {tried} swaps unseen by the first layer; "
            f"{len(crooked)} of {len(ordered)} attentions depend on more than distance"
        ),
        allowed="0, or all where there are no positions; 0",
        component=component,
        detail=problem,
    )


class _EnoughError(Exception):
    """Ends a forward pass after the first layer."""


def _unseen_swaps(bench: Bench) -> tuple[list[int], int, str]:
    """Positions whose token can be swapped with the last but one, unseen by the first layer's last output.

    Returns:
        Those positions, how many were tried, and the layer's name. None tried: no layer mixes tokens.
    """
    import torch

    anatomy = bench.anatomy
    if not anatomy.layers:
        return [], 0, ""
    layer = anatomy.layers[0]
    last = bench.length - 2
    distances = sorted(
        {*range(1, min(_NEAREST, last) + 1), *(d for d in (96, 100, 128, 192, 200) if d <= last)}
    )
    ids = bench.random_ids(1).repeat(len(distances) + 2, 1)
    ids[:, last] = (ids[:, last] + 1) % bench.vocab_size
    while bool((ids[0, :last] == ids[0, last]).any()):
        ids[:, :last] = torch.where(
            ids[:, :last] == ids[:, last:-1], (ids[:, :last] + 1) % bench.vocab_size, ids[:, :last]
        )
    for row, distance in enumerate(distances, start=2):
        ids[row, last], ids[row, last - distance] = ids[0, last - distance], ids[0, last]
    ids[1, last] = (ids[0, last] + 1) % bench.vocab_size  # seen by any layer that mixes the last two tokens
    outputs: list[torch.Tensor] = []

    def keep(_module: nn.Module, _args: object, output: object) -> None:
        found = output if isinstance(output, torch.Tensor) else output[0]  # type: ignore[index]
        outputs.append(found[:, -1].detach())
        raise _EnoughError

    handle = layer.call.module.register_forward_hook(keep)
    try:
        with torch.no_grad():
            anatomy.model(ids)
    except _EnoughError:
        pass
    finally:
        handle.remove()
    if not outputs or outputs[0].shape[0] != len(ids):
        return [], 0, layer.name
    moved = (outputs[0] - outputs[0][:1]).abs().amax(dim=-1) / outputs[0].abs().max()
    if float(moved[1]) <= _BLIND:
        return [], 0, layer.name
    blind = [
        last - distance for row, distance in enumerate(distances, start=2) if float(moved[row]) <= _BLIND
    ]
    return blind, len(distances), layer.name


def _crooked(bench: Bench) -> tuple[list[tuple[str, float]], dict[str, bool]]:
    """Attentions whose scores between equal tokens are no function of distance; and which have positions.

    Every module is run alone on the same hidden state at all positions. Learned positions are then out of
    play; rotary ones, ALiBi and relative biases must give scores that are equal along diagonals, but for a
    factor and a summand per query. The first quarter is left out: there a
    convolution before the scores would start.
    """
    import torch

    anatomy = bench.anatomy
    crooked, ordered = [], {}
    start = anatomy.length // 4
    for name, call, _ in _once(anatomy.attentions):
        hidden = anatomy.hidden_input(call)
        assert hidden is not None  # noqa: S101, such calls are not among the attentions
        generator = torch.Generator().manual_seed(bench.seed + 3)
        token = torch.randn(hidden.shape[-1], generator=generator).to(hidden)
        worst, spread = 0.0, 0.0
        for scores in anatomy.replayed_scores(call, token.expand_as(hidden)):
            values = scores.values.flatten(0, 1).double()
            visible = scores.visible.flatten(0, 1).all(0)
            share, wide = _off_diagonal(values[:, start:, start:], visible[start:, start:])
            worst, spread = max(worst, share), max(spread, wide)
        ordered[name] = spread > _ROUNDING
        if worst > _TOEPLITZ:
            crooked.append((name, worst))
    return crooked, ordered


def _off_diagonal(values: torch.Tensor, visible: torch.Tensor) -> tuple[float, float]:
    """How far scores ``(A, T, T)`` are from equal along diagonals, as a share of their spread; that spread.

    The spread is what position does to the scores, in units of their size.
    """
    import torch

    length = values.shape[-1]
    steps = torch.arange(length, device=values.device)
    distance = (steps[:, None] - steps[None, :]).clamp_min(0)
    reference = values[:, -1].flip(-1)  # (A, T): of the last query, by distance
    seen = visible & visible[-1].flip(-1)[distance] & (steps[:, None] >= steps[None, :])
    if not bool(seen.any()):
        return 0.0, 0.0
    expected, actual = reference[:, distance], values
    size = max(float(actual.masked_fill(~seen, 0.0).abs().max()), 1e-30)
    count = seen.sum(-1, keepdim=True).clamp_min(1)
    # A softmax does not see what is added to all scores of a query; some models scale them by its position.
    actual, expected = (
        (one - one.masked_fill(~seen, 0.0).sum(-1, keepdim=True) / count).masked_fill(~seen, 0.0)
        for one in (actual, expected)
    )
    factor = (actual * expected).sum(-1, keepdim=True)
    factor = factor / expected.square().sum(-1, keepdim=True).clamp_min(1e-30)
    rest = float((actual - factor * expected).abs().max())
    spread = float(actual.abs().max())
    return (rest / spread if spread > _ROUNDING * size else 0.0), spread / size


def _once(attentions: list[tuple[str, Call, Scores]]) -> Iterator[tuple[str, Call, Scores]]:
    seen: set[str] = set()
    for name, call, scores in attentions:
        if name not in seen:
            seen.add(name)
            yield name, call, scores


def _odd_one_out(bench: Bench, ordered: dict[str, bool]) -> str:
    """The attention without positions in a stack where most have them; empty where layers may differ."""
    without = [name for name, has_order in ordered.items() if not has_order]
    if (
        not without
        or len(without) * 2 >= len(ordered)
        or any(True for _ in settings_like(bench.config, _MIXED))
    ):
        return ""
    return without[0]


def _declares_positions(bench: Bench) -> bool:
    """Whether the model, its configuration or an identifier of its code speaks of positions."""
    model = bench.anatomy.model
    names = [
        part for name, _ in (*model.named_parameters(), *model.named_buffers()) for part in name.split(".")
    ]
    names += [part for name, _ in model.named_modules() for part in name.split(".")]
    names += [name for name, value in bench.config.items() if value not in (None, False)]
    try:
        code = (bench.artifact.directory / "model.py").read_text(encoding="utf-8", errors="replace")
        names += [
            token.string for token in tokenize.generate_tokens(io.StringIO(code).readline) if token.type == 1
        ]
    except (OSError, tokenize.TokenError, SyntaxError):
        pass
    return any(_POSITIONS.search(name) for name in names)


def _position_holder(bench: Bench) -> str:
    """The parameter, buffer or module that by its name holds the positions."""
    model = bench.anatomy.model
    named = [name for name, _ in (*model.named_parameters(), *model.named_modules(), *model.named_buffers())]
    return next((name for name in named if any(_POSITIONS.search(part) for part in name.split("."))), "")


POSITIONS = Probe(
    name="positions",
    category=Category.MODEL,
    meaning="order is seen at every distance; rotary and relative positions count by distance alone",
    threshold=(
        "swapping the last token but one with an earlier one moves the first layer by > 1e-8; between equal "
        "hidden states, scores are equal along diagonals to 1 % of what position does to them"
    ),
    threshold_source=(
        "two equal positions give the same sum to 1e-15 in float64; angles in float32 are off by 1e-5, a "
        "rotation of the wrong pairs, or of queries and keys by different positions, by tens of percent"
    ),
    usual_causes=(
        "positions reset every k tokens, or the same for all",
        "rotary angles paired for halves and applied to neighbours, or the other way round",
        "only queries or only keys rotated",
        "one layer without positions",
    ),
    run=_positions,
)

_WINDOW = ("sliding_window", "window_size", "attention_window", "local_window", "window", "attn_window")
_SPARSE = (
    r"chunk|local_att|sparse|strid|dilat|span|segment|select|compress|index_|landmark|prefix|global_att"
    r"|max_window_layers"
)
"""Settings by which attention may be sparse in a way of its own."""


def _context_reach(bench: Bench) -> Measurement:
    import torch

    anatomy = bench.anatomy
    window = setting(bench.config, *_WINDOW)
    window = window if isinstance(window, int) and not isinstance(window, bool) and window > 0 else None
    nested = [value for _, value in settings_like(bench.config, "window") if isinstance(value, int)]
    if not anatomy.attentions or any(value for _, value in settings_like(bench.config, _SPARSE)):
        return Measurement(passed=True, measured="no dense softmax attention", allowed="-")
    window = window or next((value for value in nested if value > 1), None)
    length = anatomy.length
    steps = torch.arange(length, device=anatomy.ids.device)
    distance = steps[:, None] - steps[None, :]
    reaches = [distance >= 0]
    if window is not None:
        reaches += [(distance >= 0) & (distance < reach) for reach in (window, window + 1)]
    problems = []
    for name, _, scores in anatomy.attentions:
        seen = scores.visible.flatten(0, 1).any(0)
        if not any(bool((seen == reach).all()) for reach in reaches):
            expected = reaches[-1] if window is not None else reaches[0]
            hidden = (expected & ~seen).nonzero()
            leaking = (seen & ~expected).nonzero()
            if len(hidden):
                query, key = hidden[-1].tolist()
                problems.append((name, f"in {name} token {query} does not see token {key}"))
            elif len(leaking):
                query, key = leaking[0].tolist()
                problems.append((name, f"in {name} token {query} sees token {key}"))
    told = f"the last {window} tokens, or all" if window is not None else "itself and all tokens before it"
    return Measurement(
        passed=not problems,
        measured=f"{len(problems)} of {len(anatomy.attentions)} attentions see other tokens than declared",
        allowed=f"a token sees {told}",
        component=problems[0][0] if problems else "",
        detail="; ".join(text for _, text in problems[:3]),
    )


CONTEXT_REACH = Probe(
    name="context-reach",
    category=Category.MODEL,
    meaning="attention lets a token see itself and all before it, or the window that config.json names",
    threshold="the tokens that are not masked are exactly these, for every query of a window",
    threshold_source="masks are read off the scores: minus infinity, or below -1e4",
    usual_causes=(
        "a mask with a wrong diagonal",
        "a window that config.json does not name",
        "a mask of another length",
    ),
    run=_context_reach,
)

_SHARP = 0.75
_FLAT = 1.5
_SCALED = r"scal|temperature|mup|softmax|logit_soft|attn_soft|query_pre_attn|attention_multiplier|cosine"
_NARROW = 16  # below that sqrt(d) is too near to one


def _attention_scale(bench: Bench) -> Measurement:
    import torch

    anatomy = bench.anatomy
    ranges = []
    for name, call, _ in _once(anatomy.attentions):
        hidden = anatomy.hidden_input(call)
        assert hidden is not None  # noqa: S101, such calls are not among the attentions
        generator = torch.Generator().manual_seed(bench.seed + 4)
        # As large as after a norm. What positions add to the scores is the same in both, and drops out.
        first, second = (
            anatomy.replayed_scores(call, torch.randn(hidden.shape, generator=generator).to(hidden))
            for _ in range(2)
        )
        for one, other in zip(first, second, strict=False):
            if one.head_dim is not None and one.head_dim >= _NARROW:
                moved = (one.values - other.values)[one.visible & other.visible]
                ranges.append((name, float(moved.double().std()) / 2**0.5, one.head_dim))
    if not ranges or any(value for _, value in settings_like(bench.config, _SCALED)):
        return Measurement(passed=True, measured="no attention whose scale is known", allowed="-")
    wrong = [
        (name, spread, dim)
        for name, spread, dim in ranges
        if spread > _SHARP * dim**0.5 or spread < _FLAT * dim**-0.5
    ]
    spreads = [spread for _, spread, _ in ranges]
    width = ranges[0][2]
    return Measurement(
        passed=not wrong,
        measured=f"scores with a deviation of {min(spreads):.2f} to {max(spreads):.2f}",
        allowed=f"{_FLAT * width**-0.5:.2f} to {_SHARP * width**0.5:.2f} for heads of {width}",
        component=wrong[0][0] if wrong else "",
        detail=(
            f"scores {'not divided' if wrong[0][1] > 1 else 'divided twice'} by sqrt({wrong[0][2]})"
            if wrong
            else ""
        ),
    )


ATTENTION_SCALE = Probe(
    name="attention-scale",
    category=Category.MODEL,
    meaning="attention scores are divided by the square root of the head's width, once",
    threshold="with redrawn weights and normalised inputs their deviation is in 1.5/sqrt(d) to 0.75 sqrt(d)",
    threshold_source="near 1 when divided once, sqrt(d) when not, 1/sqrt(d) when twice; for d of 16 and more",
    usual_causes=("the scale forgotten", "scaled by hand and again by scaled_dot_product_attention"),
    run=_attention_scale,
)
