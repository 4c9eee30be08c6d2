"""What no shape shows: the model against variants of itself that fit the same weights.

A configuration whose heads, rotary base or activation are not those of training loads without a word, and so
does a file whose layers were swapped. The text tells them: the variant that undoes the change predicts it
better. Each comparison is paired, window by window.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ml_intern_cli.judge.artifact import Unusable
from ml_intern_cli.judge.audit.bench import AuditBench
from ml_intern_cli.judge.audit.files import CONFIG
from ml_intern_cli.judge.probe import Category, Measurement, Probe

if TYPE_CHECKING:
    from torch import nn

_LEAST_GAIN = 0.02  # nats per token; sound models were measured to gain up to 0.0004 by a variant
_SIGMAS = 6.0
_MOST_PARAMS = 1_000_000_000  # a second copy in memory, and a pass per variant
_MOST_LAYERS = 48
_BASES = (1e3, 1e4, 1e5, 5e5, 1e6)
_ACTIVATIONS = ("silu", "gelu", "gelu_new", "relu")
_EPSILONS = (1e-6, 1e-5)
_HEADS = ("num_attention_heads", "num_key_value_heads", "n_head")
_ACTIVATION_FIELDS = ("hidden_act", "activation_function", "hidden_activation")
_SWITCHES = ("norm_topk_prob", "scale_attn_by_inverse_layer_idx", "scale_attn_weights")
_EPSILON_FIELDS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")


class _Best:
    """The variant that gains most, of those that gain more than chance would."""

    def __init__(self, bench: AuditBench) -> None:
        self._bench = bench
        self.count = 0
        self.gain, self.component, self.what = 0.0, "", ""

    def compare(self, component: str, what: str, model: Any = None) -> None:
        """Measure a variant: ``model``, or the bench's own as it is now."""
        self.count += 1
        try:
            losses = self._bench.losses(self._bench.few_windows, model=model).per_window
        except Unusable:
            return  # a variant that cannot run is no alternative
        gains = self._bench.few_losses.per_window - losses
        mean = float(gains.mean())
        if float(losses.mean()) >= self._bench.text.unigram_loss:
            return  # it predicts nothing either
        error = float(gains.std()) / len(gains) ** 0.5
        if mean > max(self.gain, _LEAST_GAIN, _SIGMAS * error):
            self.gain, self.component, self.what = mean, component, what

    def measurement(self) -> Measurement:
        """What came out."""
        found = bool(self.component)
        return Measurement(
            passed=not found,
            measured=f"{self.gain:.3f} nats better" if found else f"none of {self.count} variants is better",
            allowed=f"none better by {_LEAST_GAIN} nats and {_SIGMAS:.0f} standard errors",
            component=self.component,
            detail=self.what,
        )


def _layers(bench: AuditBench) -> Measurement:
    stack, name = _stack(bench.model)
    bench.few_losses  # noqa: B018, of the model as it is, before anything is moved
    best = _Best(bench)
    if stack is None or len(stack) < 2:
        return Measurement(passed=True, measured="it has no stack of layers", allowed="-")
    for at in range(min(len(stack) - 1, _MOST_LAYERS)):
        with _swapped(stack, at):
            what = f"with layers {at} and {at + 1} swapped the text is predicted better"
            best.compare(f"{name}.{at}", what)
    for at in range(min(len(stack), _MOST_LAYERS)):
        with _skipped(stack, at):
            best.compare(f"{name}.{at}", f"without layer {at} the text is predicted better")
    return best.measurement()


def _stack(model: Any) -> tuple[nn.ModuleList | None, str]:
    """The list of decoder layers: the longest list of modules of one class."""
    from torch import nn

    lists = [
        (module, name)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(one) for one in module}) == 1
    ]
    own = getattr(model.config, "num_hidden_layers", None)
    fitting = [pair for pair in lists if len(pair[0]) == own]
    return fitting[0] if fitting else (None, "")


@contextmanager
def _swapped(stack: nn.ModuleList, at: int) -> Iterator[None]:
    stack[at], stack[at + 1] = stack[at + 1], stack[at]
    try:
        yield
    finally:
        stack[at], stack[at + 1] = stack[at + 1], stack[at]


@contextmanager
def _skipped(stack: nn.ModuleList, at: int) -> Iterator[None]:
    """One layer hands on what it gets."""

    def hand_on(_module: object, inputs: Any, keywords: dict[str, Any], output: Any) -> Any:
        given = inputs[0] if inputs else keywords["hidden_states"]
        return (given, *output[1:]) if isinstance(output, tuple) else given

    handle = stack[at].register_forward_hook(hand_on, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


LAYER_ORDER = Probe(
    name="layer-order",
    category=Category.ARTIFACT,
    meaning="every layer stands where it was trained, and is of use there",
    threshold="no swap of neighbours, no layer left out lowers the loss by 0.02 nats and 6 standard errors",
    threshold_source="in trained models both raise the loss; 6 standard errors err once in a billion",
    usual_causes=(
        "layers that were renamed in the wrong order",
        "a layer that was filled at random",
        "a merge of two models",
    ),
    run=_layers,
)


def _alternatives(bench: AuditBench) -> Measurement:
    if bench.params > _MOST_PARAMS:
        return Measurement(passed=True, measured="not compared above 1B parameters", allowed="-")
    bench.few_losses  # noqa: B018, of the model as declared
    best = _Best(bench)
    own = bench.model.config
    weights = bench.model.state_dict()
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    for field, what, config in _variants(own):
        try:
            with bench.foreign_code("building a variant"):
                model = type(bench.model)(config).eval()
                fits = {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
                if fits:
                    model.load_state_dict(weights)
        except Unusable:
            continue  # a combination that the architecture refuses
        if fits:
            best.compare(f"{CONFIG}: {field}", f"with {what} the text is predicted better", model)
    return best.measurement()


def _variants(own: Any) -> Iterator[tuple[str, str, Any]]:
    """A field of config.json, what it would be, and the configuration that has it so."""
    yield from _bases(own)
    yield from _heads(own)
    for field, values in (
        *((field, _ACTIVATIONS) for field in _ACTIVATION_FIELDS),
        *((field, _EPSILONS) for field in _EPSILON_FIELDS),
        *((field, (False, True)) for field in _SWITCHES),
        ("num_experts_per_tok", _experts_per_token(own)),
    ):
        declared = getattr(own, field, None)
        for value in values if declared is not None else ():
            if value != declared:
                yield field, f"{field} {value}", _changed(own, **{field: value})


def _heads(own: Any) -> Iterator[tuple[str, str, Any]]:
    """Twice as many heads of half the width, and the other way round: the same shapes."""
    heads = {field: getattr(own, field) for field in _HEADS if field in own.to_dict()}
    for up, down in ((2, 1), (1, 2)):
        if heads and all(count and count * up % down == 0 for count in heads.values()):
            other = {field: count * up // down for field, count in heads.items()}
            width = getattr(own, "head_dim", None)
            if isinstance(width, int):
                other["head_dim"] = width * down // up
            field = next(iter(heads))
            yield field, f"{field} {other[field]}", _changed(own, **other)


def _bases(own: Any) -> Iterator[tuple[str, str, Any]]:
    parameters = getattr(own, "rope_parameters", None)
    if not isinstance(parameters, dict) or not isinstance(parameters.get("rope_theta"), (int, float)):
        return
    base = float(parameters["rope_theta"])
    for other in sorted({*_BASES, base * 10, base / 10} - {base}):
        changed = _changed(own, rope_parameters={**parameters, "rope_theta": other})
        yield "rope_theta", f"rope_theta {other:g}", changed


def _experts_per_token(own: Any) -> tuple[int, ...]:
    """One expert fewer and one more, as far as there are any."""
    chosen = getattr(own, "num_experts_per_tok", None)
    counts = (getattr(own, field, None) for field in ("num_local_experts", "num_experts", "n_routed_experts"))
    most = next((count for count in counts if isinstance(count, int)), 0)
    return tuple(n for n in (chosen - 1, chosen + 1) if 1 <= n <= most) if isinstance(chosen, int) else ()


def _changed(own: Any, **values: Any) -> Any:
    config = copy.deepcopy(own)
    for name, value in values.items():
        setattr(config, name, value)
    return config


CONFIG_ALTERNATIVES = Probe(
    name="config-alternatives",
    category=Category.ARTIFACT,
    meaning="no other rotary base, head count, activation, epsilon or expert choice fits the weights better",
    threshold="no variant lowers the loss by 0.02 nats and 6 standard errors",
    threshold_source="paired window by window; sound models prefer what they were trained with",
    usual_causes=("config.json that was written by hand or taken from a relative of the model",),
    run=_alternatives,
)

PROBES = (LAYER_ORDER, CONFIG_ALTERNATIVES)
