"""The DeepSeek-V3 blueprint: its module against transformers', its sizing, its balance."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, DeepseekV3ForCausalLM
from transformers import DeepseekV3Config as TransformersConfig

from ml_intern_cli.brains import blueprints
from ml_intern_cli.errors import InvalidInput

FOLDER = blueprints.folder("deepseek-v3")
VOCAB = 97


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"blueprint_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


own = load("model")
theirs = load("model_transformers")
blueprint: Any = blueprints.load("deepseek-v3")


def small(**changes: Any) -> dict[str, Any]:
    """A configuration of some ten thousand parameters."""
    return {
        "vocab_size": VOCAB,
        "hidden_size": 48,
        "intermediate_size": 64,
        "moe_intermediate_size": 24,
        "num_hidden_layers": 3,
        "first_k_dense_replace": 1,
        "num_attention_heads": 3,
        "q_lora_rank": None,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        **changes,
    }


def random_config(seed: int) -> dict[str, Any]:
    """One of many configurations; the seed walks through the switches, the rest is drawn."""
    draw = random.Random(seed)
    groups = draw.choice([1, 2, 4])
    experts = groups * draw.choice([2, 3, 4])
    top_groups = draw.randint(1, groups)
    yarn = {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "mscale": 1.0,
        "mscale_all_dim": draw.choice([1.0, 0.7]),
    }
    return small(
        hidden_size=draw.choice([48, 64]),
        num_attention_heads=draw.choice([2, 3, 4]),
        q_lora_rank=draw.choice([None, 24]),
        qk_nope_head_dim=draw.choice([8, 16]),
        qk_rope_head_dim=draw.choice([4, 8]),
        v_head_dim=draw.choice([8, 12, 32]),
        n_routed_experts=experts,
        n_shared_experts=draw.choice([1, 2]),
        num_experts_per_tok=draw.randint(1, min(4, top_groups * experts // groups)),
        n_group=groups,
        topk_group=top_groups,
        first_k_dense_replace=seed % 3,
        norm_topk_prob=bool(seed & 1),
        rope_interleave=bool(seed & 2),
        tie_word_embeddings=bool(seed & 4),
        rope_parameters=yarn if seed & 8 else None,
        initializer_range=0.2,
    )


def build(config: dict[str, Any], *, module: ModuleType = own, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    names = {field.name for field in dataclasses.fields(module.DeepseekV3Config)}
    fields = {name: value for name, value in config.items() if name in names}
    return module.DeepseekV3(module.DeepseekV3Config(**fields)).eval()


def with_random_bias(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, own.Router):
            module.e_score_correction_bias.normal_(0, 0.1)
    return model


def tokens(batch: int, length: int, *, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def saved(model: Any, directory: Path) -> Path:
    """The directory as publishing makes it."""
    save_file(model.state_dict(), directory / "model.safetensors", metadata={"format": "pt"})
    config = {**dataclasses.asdict(model.config), **blueprint.CONFIG_EXTRAS}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


# --- parity with transformers ---


@pytest.mark.parametrize("seed", range(16))
@torch.no_grad()
def test_logits_equal_those_of_transformers(seed: int) -> None:
    model = with_random_bias(build(random_config(seed), seed=seed))
    reference = DeepseekV3ForCausalLM(TransformersConfig(**dataclasses.asdict(model.config))).eval()
    missing, unexpected = reference.load_state_dict(model.state_dict(), strict=False)
    assert unexpected == []
    assert missing == (["lm_head.weight"] if model.config.tie_word_embeddings else [])
    ids = tokens(3, 80, seed=seed)
    torch.testing.assert_close(model(ids), reference(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_gradients_equal_those_of_transformers(seed: int) -> None:
    config = random_config(seed) | {"initializer_range": 0.05}
    model, reference = build(config), build(config, module=theirs)
    reference.load_state_dict(model.state_dict())
    ids = tokens(2, 70)
    loss = functional.cross_entropy(reference(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    total, cross_entropy = model.loss(ids[:, :-1], ids[:, 1:])
    torch.testing.assert_close(cross_entropy, loss)
    loss.backward()
    total.backward()
    expected = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_a_saved_model_loads_with_plain_transformers_and_with_model_py(tied: bool, tmp_path: Path) -> None:
    model = with_random_bias(build(small(tie_word_embeddings=tied, initializer_range=0.2)))
    saved(model, tmp_path)
    ids = tokens(2, 40)

    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(loaded.eval()(ids).logits, model(ids), atol=1e-4, rtol=0)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) is tied

    for module in (own, theirs):
        again = build(json.loads((tmp_path / "config.json").read_text()), module=module, seed=1)
        again.load_state_dict(load_file(tmp_path / "model.safetensors"))
        torch.testing.assert_close(again(ids), model(ids), atol=1e-4, rtol=0)


@torch.no_grad()
def test_prediction_modules_are_left_out_by_transformers_and_kept_by_model_py(tmp_path: Path) -> None:
    model = build(small(num_nextn_predict_layers=1))
    saved(model, tmp_path)
    ids = tokens(2, 40)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert all(key.startswith("model.layers.3.") for key in info["unexpected_keys"])
    torch.testing.assert_close(loaded.eval()(ids).logits, model(ids), atol=1e-4, rtol=0)
    build(small(num_nextn_predict_layers=1), seed=1).load_state_dict(
        load_file(tmp_path / "model.safetensors")
    )


# --- what a language model must be ---


@pytest.mark.parametrize("module", [own, theirs], ids=["own", "transformers"])
@torch.no_grad()
def test_no_position_sees_a_later_token(module: ModuleType) -> None:
    model = build(small(initializer_range=0.2), module=module)
    ids = tokens(2, 100)
    before = model(ids)
    for position in (1, 63, 64, 99):
        changed = ids.clone()
        changed[:, position] = (changed[:, position] + 1) % VOCAB
        after = model(changed)
        torch.testing.assert_close(after[:, :position], before[:, :position], atol=1e-5, rtol=0)
        assert (after[:, position] - before[:, position]).abs().max() > 1e-3


@torch.no_grad()
def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    model = build(small(initializer_range=0.2))
    ids = tokens(4, 50)
    torch.testing.assert_close(model(ids)[2:3], model(ids[2:3]), atol=1e-5, rtol=0)


@torch.no_grad()
def test_causality_is_exact_in_double_precision() -> None:
    model = build(small(initializer_range=0.2)).double()
    ids = tokens(1, 100)
    changed = ids.clone()
    changed[:, 70] = (changed[:, 70] + 1) % VOCAB
    torch.testing.assert_close(model(changed)[:, :70], model(ids)[:, :70], atol=1e-13, rtol=0)


def test_the_first_loss_is_that_of_a_uniform_guess() -> None:
    ids = tokens(8, 101)
    _, cross_entropy = build(small()).loss(ids[:, :-1], ids[:, 1:])
    torch.testing.assert_close(cross_entropy.item(), torch.log(torch.tensor(VOCAB)).item(), atol=0.05, rtol=0)


@pytest.mark.parametrize("predictors", [0, 2])
def test_every_parameter_gets_a_gradient(predictors: int) -> None:
    model = build(small(num_nextn_predict_layers=predictors)).train()
    ids = tokens(8, 101)
    model.loss(ids[:, :-1], ids[:, 1:])[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@torch.no_grad()
def test_a_sequence_of_one_token_has_logits() -> None:
    assert build(small())(tokens(1, 1)).shape == (1, 1, VOCAB)


def test_a_batch_can_be_learnt_by_heart() -> None:
    model = build(small()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = tokens(2, 33)
    for _ in range(60):
        loss, _ = model.loss(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_optimizer_step()
    assert loss.item() < 0.2


# --- the hand-written gradients ---


def doubles(*shape: int) -> Tensor:
    return torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()


def test_gradients_of_the_norm_are_right() -> None:
    torch.autograd.gradcheck(lambda x, w: own._RMSNormFunction.apply(x, w, 1e-6), (doubles(4, 6), doubles(6)))


def test_gradients_of_attention_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own._CausalAttention, "BLOCK", 2)
    torch.autograd.gradcheck(
        lambda q, k, v: own._CausalAttention.apply(q, k, v),
        (doubles(2, 5, 4), doubles(2, 5, 4), doubles(2, 5, 3)),
    )


def test_gradients_of_segments_are_right_with_an_idle_expert() -> None:
    torch.autograd.gradcheck(
        lambda x, up, down: own._SegmentedSwiGLU.apply(x, up, down, [3, 0, 2]),
        (doubles(5, 4), doubles(3, 6, 4), doubles(3, 4, 3)),
    )


def test_gradients_of_dispatch_and_combination_are_right() -> None:
    experts = torch.tensor([[2, 0], [0, 1], [2, 1]])
    choice_of_row = experts.flatten().argsort()
    row_of_choice = choice_of_row.argsort().view_as(experts)

    def there_and_back(x: Tensor, weights: Tensor) -> Tensor:
        rows = own._Dispatch.apply(x, choice_of_row // 2, row_of_choice)
        return own._Combine.apply(rows.square(), weights, choice_of_row, row_of_choice)

    torch.autograd.gradcheck(there_and_back, (doubles(3, 4), doubles(3, 2)))


def test_gradients_of_the_loss_are_right_over_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own._LinearCrossEntropy, "CHUNK", 2)
    targets = torch.tensor([0, 6, 3, 2, 2])
    torch.autograd.gradcheck(
        lambda h, w: own._LinearCrossEntropy.apply(h, w, targets), (doubles(5, 4), doubles(7, 4))
    )


@pytest.mark.parametrize("norm_topk_prob", [False, True])
def test_bfloat16_on_a_cpu_gives_the_loss_and_gradients_of_full_precision(norm_topk_prob: bool) -> None:
    model = build(small(norm_topk_prob=norm_topk_prob)).train()
    ids = tokens(2, 65)
    exact, _ = model.loss(ids[:, :-1], ids[:, 1:])
    exact.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, _ = model.loss(ids[:, :-1], ids[:, 1:])
    rounded.backward()
    torch.testing.assert_close(rounded, exact, atol=0.02, rtol=0)
    assert rounded.dtype is torch.float32
    for name, parameter in model.named_parameters():
        difference = (parameter.grad - gradients[name]).norm() / gradients[name].norm()
        assert parameter.grad.dtype is torch.float32
        assert difference < 0.1, f"{name}: {difference:.3f}"


def test_what_runs_on_an_accelerator_compiles_into_one_graph_and_agrees() -> None:
    model = build(small()).train()
    ids = tokens(2, 65)
    exact, _ = model.loss(ids[:, :-1], ids[:, 1:])
    compiled = torch.compile(model.loss, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, _ = compiled(ids[:, :-1], ids[:, 1:])
    rounded.backward()
    torch.testing.assert_close(rounded, exact, atol=0.02, rtol=0)
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_segments_of_any_precision_multiply_as_one_by_one(dtype: torch.dtype) -> None:
    rows, weight = doubles(5, 4).to(dtype), doubles(3, 6, 4).to(dtype)
    out = own.segmented_linear(rows, weight, torch.tensor([3, 0, 2]))
    torch.testing.assert_close(out[:3], rows[:3] @ weight[0].t())
    torch.testing.assert_close(out[3:], rows[3:] @ weight[2].t())


# --- balance ---


def routers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "e_score_correction_bias")]


@pytest.mark.parametrize("module", [own, theirs], ids=["own", "transformers"])
def test_the_bias_moves_load_from_busy_to_idle_experts(module: ModuleType) -> None:
    model = build(small(bias_update_speed=0.01, initializer_range=0.2), module=module).train()
    ids = tokens(8, 64)
    spreads = []
    for _ in range(60):
        model(ids)
        spreads.append(sum(router.load.std().item() for router in routers(model)))
        model.after_optimizer_step()
    assert spreads[-1] < 0.4 * spreads[0]
    assert all(not router.load.any() for router in routers(model))


@pytest.mark.parametrize("module", [own, theirs], ids=["own", "transformers"])
@torch.no_grad()
def test_load_counts_every_choice_and_only_in_training(module: ModuleType) -> None:
    model = build(small(), module=module)
    model(tokens(2, 10))
    assert all(not router.load.any() for router in routers(model))
    model.train()
    model(tokens(2, 10))
    model(tokens(2, 10))
    assert [router.load.sum().item() for router in routers(model)] == [2 * 2 * 10 * 2] * 2


def test_the_bias_changes_the_choice_but_not_the_weights() -> None:
    router = own.Router(own.DeepseekV3Config(**small()))
    nn.init.normal_(router.weight)
    x = torch.randn(20, 48, generator=torch.Generator().manual_seed(0))
    affinity = (x @ router.weight.t()).sigmoid()
    router.e_score_correction_bias[3] = 10.0
    weights, experts = router(x)
    assert (experts == 3).any(-1).all()
    chosen = affinity.gather(1, experts)
    torch.testing.assert_close(weights, chosen / chosen.sum(-1, keepdim=True) * router.scaling)


# --- multi-token prediction ---


def test_prediction_modules_add_to_the_loss_but_not_to_the_logits() -> None:
    ids = tokens(2, 33)
    plain, with_module = build(small()), build(small(num_nextn_predict_layers=1))
    missing, _ = plain.load_state_dict(with_module.state_dict(), strict=False)
    assert missing == []
    torch.testing.assert_close(plain(ids), with_module(ids))
    total, cross_entropy = with_module.loss(ids[:, :-1], ids[:, 1:])
    torch.testing.assert_close(cross_entropy, plain.loss(ids[:, :-1], ids[:, 1:])[1])
    further = (total - cross_entropy) / with_module.config.mtp_loss_weight
    torch.testing.assert_close(further.item(), torch.log(torch.tensor(VOCAB)).item(), atol=0.1, rtol=0)


def test_a_prediction_module_never_sees_the_token_it_predicts() -> None:
    model = build(small(num_nextn_predict_layers=1, initializer_range=0.2))
    ids = tokens(1, 33)
    changed = ids.clone()
    changed[0, 32] = (changed[0, 32] + 1) % VOCAB
    rotary = model.model.rotary_emb(31)

    def predicted(row: Tensor) -> Tensor:
        hidden = model.model(row[:, :31])
        return model.model.layers[-1].predict(hidden, model.model.embed_tokens(row[:, 1:32]), rotary)

    torch.testing.assert_close(predicted(changed), predicted(ids))


# --- configuration and sizing ---


@pytest.mark.parametrize(
    "change",
    [
        {"num_key_value_heads": 1},
        {"qk_rope_head_dim": 7},
        {"n_group": 3},
        {"n_group": 8},
        {"n_group": 2, "topk_group": 3},
        {"num_experts_per_tok": 9},
    ],
    ids="-".join,
)
def test_a_contradictory_configuration_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        own.DeepseekV3Config(**small(**change))


MILLION, BILLION = 10**6, 10**9
SIZES = [500_000, MILLION, 2_500_000, 5 * MILLION, 10 * MILLION, 33 * MILLION, 100 * MILLION, 350 * MILLION]
SIZES += [BILLION, 3 * BILLION, 16 * BILLION, 70 * BILLION, 236 * BILLION, 671 * BILLION, 700 * BILLION]


@pytest.mark.parametrize("params", SIZES)
def test_a_sizing_meets_its_target_and_counts_as_both_modules_do(params: int) -> None:
    sizing = blueprint.solve(params)
    assert abs(sizing.params / params - 1) <= (0.01 if params >= 5_000_000 else 0.03)
    assert blueprint.count(sizing.config) == (sizing.params, sizing.active_params)
    assert blueprint.count_on_meta(sizing.config) == sizing.params
    with torch.device("meta"):
        reference = build(sizing.config, module=theirs)
    assert sum(parameter.numel() for parameter in reference.parameters()) == sizing.params
    json.dumps(sizing.config)


@pytest.mark.parametrize("vocab_size", [1024, 4096, 50257, 129280])
def test_a_given_vocabulary_is_honoured(vocab_size: int) -> None:
    for params in (20_000_000, 123_456_789, 7 * 10**9):
        sizing = blueprint.solve(params, vocab_size=vocab_size)
        assert sizing.vocab_size == sizing.config["vocab_size"] == vocab_size
        assert abs(sizing.params / params - 1) <= 0.01


def test_any_size_has_a_configuration() -> None:
    draw = random.Random(0)
    for _ in range(40):
        params = int(10 ** draw.uniform(5.7, 11.845))
        sizing = blueprint.solve(params)
        assert abs(sizing.params / params - 1) <= (0.01 if params >= 5_000_000 else 0.03)
        own.DeepseekV3Config(**sizing.config)


def test_671b_gives_back_the_published_configuration() -> None:
    sizing = blueprint.solve(671_000_000_000)
    assert sizing.params == 671_026_404_352
    assert sizing.config == dataclasses.asdict(own.DeepseekV3Config())
    assert round(sizing.active_params / 1e9) == 37


def test_prediction_modules_are_counted() -> None:
    config = {**blueprint.solve(1_000_000).config, "num_nextn_predict_layers": 2}
    assert blueprint.count(config)[0] == blueprint.count_on_meta(config)


@pytest.mark.parametrize(("params", "vocab_size"), [(100_000, None), (10**12, None), (1_000_000, 129280)])
def test_an_impossible_size_is_refused(params: int, vocab_size: int | None) -> None:
    with pytest.raises(InvalidInput):
        blueprint.solve(params, vocab_size=vocab_size)


def test_the_last_tokenizer_needs_no_network() -> None:
    for params in SIZES:
        assert blueprint.tokenizers(params)[-1].hub_id is None
    assert [blueprint.tokenizers(p)[0].vocab_size for p in (10**6, 10**7, 10**8, 10**10)] == [
        2048,
        4096,
        50257,
        129280,
    ]
    assert blueprint.tokenizers(10**8)[-1].vocab_size == 16384


def test_a_recipe_names_the_source_of_each_number() -> None:
    for params in SIZES:
        recipe = blueprint.recipe(blueprint.solve(params))
        assert set(recipe.sources) == set(recipe._fields) - {"sources"}
        assert 1e-5 < recipe.learning_rate < 0.02
        assert recipe.tokens_per_step >= recipe.seq_len


def test_sizing_needs_no_torch() -> None:
    code = """
import sys
from ml_intern_cli.brains.blueprints import load
load("deepseek-v3").solve(10**8)
print("torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
