from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_intern_cli.brains.reader import Field, Reading, read
from ml_intern_cli.errors import InvalidInput

V3 = "deepseek-v3"
SPELLINGS = dict.fromkeys(["deepseekv3", "dsv3"], V3)
ARXIV_IDS = {"2412.19437": V3}
TINY = "roneneldan/TinyStories"
M = 1_000_000


def read_sentence(sentence: str) -> Reading:
    return read(sentence, spellings=SPELLINGS, arxiv_ids=ARXIV_IDS)


def values(sentence: str) -> dict[str, object]:
    """What is said, by field; every field must be clear."""
    reading = read_sentence(sentence)
    assert reading.conflicts == ()
    return {field.value: reading.values(field)[0] for field in Field if reading.values(field)}


# What is expected of each, beside the architecture.
PHRASINGS: list[tuple[str, dict[str, object]]] = [
    # the issue's own
    ("implement DeepSeek-V3 at 100M", {"params": 100 * M}),
    (
        "train a 2.5M-param deepseek v3 on data/my.txt for 20 minutes",
        {"params": 2_500_000, "dataset": "data/my.txt", "time_budget_s": 1200},
    ),
    (
        "DeepSeekV3 ~10m tokens 5M, seq 256, seed 7",
        {"params": 10 * M, "tokens": 5 * M, "seq_len": 256, "seed": 7},
    ),
    ("reproduce arXiv 2412.19437 at 1B", {"params": 1000 * M}),
    # architectures
    ("DeepSeek-V3", {}),
    ("deepseek v3", {}),
    ("DeepSeekV3", {}),
    ("deepseek_v3", {}),
    ("deepseek v 3", {}),
    ("Deep Seek V3", {}),
    ("DEEPSEEK-V3!", {}),
    ("ds-v3", {}),
    ("Deepseek\u2011V3", {}),  # a hyphen that does not break
    ("the DeepSeek-V3's architecture", {}),
    ("a DeepSeek-V3-style model", {}),
    ("DeepSeek-V3-Base", {}),
    ('"DeepSeek-V3"', {}),
    ("deepseek-ai/DeepSeek-V3", {}),
    ("https://huggingface.co/deepseek-ai/DeepSeek-V3", {}),
    ("2412.19437", {}),
    ("arXiv:2412.19437v2", {}),
    ("arxiv 2412.19437", {}),
    ("https://arxiv.org/abs/2412.19437", {}),
    ("https://arxiv.org/pdf/2412.19437v1.pdf", {}),
    ("the paper arXiv:2412.19437, which is DeepSeek-V3", {}),
    ("implement DeepSeek-V3 instead of DeepSeek-V2", {}),
    # parameters
    ("DeepSeek-V3-100M", {"params": 100 * M}),
    ("100M DeepSeek-V3", {"params": 100 * M}),
    ("deepseek-v3 10m", {"params": 10 * M}),
    ("deepseek-v3 ~10m", {"params": 10 * M}),
    ("deepseek-v3 at about 10M", {"params": 10 * M}),
    ("deepseek-v3 with 1.3B parameters", {"params": 1300 * M}),
    ("deepseek-v3, 500k", {"params": 500_000}),
    ("deepseek-v3 at 1e8 params", {"params": 100 * M}),
    ("deepseek-v3 at 1000000", {"params": M}),
    ("deepseek-v3 with 1,000,000 params", {"params": M}),
    ("deepseek-v3 with 10 million parameters", {"params": 10 * M}),
    ("deepseek-v3 with 10 M parameters", {"params": 10 * M}),
    ("deepseek-v3 with one hundred million parameters", {"params": 100 * M}),
    ("deepseek-v3 at half a billion params", {"params": 500 * M}),
    ("deepseek-v3 with a million parameters", {"params": M}),
    ("deepseek-v3, params=100M", {"params": 100 * M}),
    ("deepseek-v3, model size 100M", {"params": 100 * M}),
    ("deepseek-v3 at 30M scale", {"params": 30 * M}),
    ("deepseek-v3 with 100M total parameters", {"params": 100 * M}),
    ("--params 100M deepseek-v3", {"params": 100 * M}),
    ("a 100M-parameter deepseek-v3", {"params": 100 * M}),
    ("Deepseek-V3? 100M!", {"params": 100 * M}),
    ("deepseek-v3 (100M)", {"params": 100 * M}),
    ("deepseek-v3 671B", {"params": 671_000 * M}),
    ("deepseek-v3 10M, and again 10M", {"params": 10 * M}),
    # datasets
    ("deepseek-v3 on TinyStories", {"dataset": TINY}),
    ("deepseek-v3 on tiny stories", {"dataset": TINY}),
    ("deepseek-v3 using the TinyStories dataset", {"dataset": TINY}),
    ("deepseek-v3 on roneneldan/TinyStories", {"dataset": TINY}),
    ("deepseek-v3 roneneldan/TinyStories", {"dataset": TINY}),
    ("deepseek-v3 on https://huggingface.co/datasets/roneneldan/TinyStories", {"dataset": TINY}),
    ("deepseek-v3 using builtin:stories", {"dataset": "builtin:stories"}),
    ("deepseek-v3 on the built-in stories", {"dataset": "builtin:stories"}),
    ("deepseek-v3 on data/my.txt.", {"dataset": "data/my.txt"}),
    ("deepseek-v3 on notes.jsonl", {"dataset": "notes.jsonl"}),
    ("deepseek-v3 from ~/corpora/x", {"dataset": "~/corpora/x"}),
    ("deepseek-v3 on ./corpus/", {"dataset": "./corpus/"}),
    ("deepseek-v3 on /data/books", {"dataset": "/data/books"}),
    ("deepseek-v3 on ../x.parquet", {"dataset": "../x.parquet"}),
    ('deepseek-v3 on "my data/all books.txt"', {"dataset": "my data/all books.txt"}),
    ("deepseek-v3 on 'my notes.txt'", {"dataset": "my notes.txt"}),
    ("deepseek-v3 on “my corpus”", {"dataset": "my corpus"}),
    ('deepseek-v3 with the "my corpus" dataset', {"dataset": "my corpus"}),
    ("deepseek-v3 dataset=data/x.txt", {"dataset": "data/x.txt"}),
    ("deepseek-v3 dataset: imdb", {"dataset": "imdb"}),
    ("deepseek-v3 on the Shakespeare corpus", {"dataset": "Shakespeare"}),
    ("deepseek-v3 on wikitext for 1 h", {"dataset": "wikitext", "time_budget_s": 3600}),
    ("deepseek-v3 on fineweb-edu", {"dataset": "HuggingFaceFW/fineweb-edu"}),
    ("deepseek-v3 on allenai/c4:en", {"dataset": "allenai/c4:en"}),
    ("deepseek-v3 on x.csv, column story", {"dataset": "x.csv", "dataset_column": "story"}),
    ("deepseek-v3 on x.csv column: body_text", {"dataset": "x.csv", "dataset_column": "body_text"}),
    ('deepseek-v3 on x.csv column "the text"', {"dataset": "x.csv", "dataset_column": "the text"}),
    # sequence length
    ("deepseek-v3 seq 256", {"seq_len": 256}),
    ("deepseek-v3 seq_len=256", {"seq_len": 256}),
    ("deepseek-v3 --seq-len 256", {"seq_len": 256}),
    ("deepseek-v3 context 1k", {"seq_len": 1024}),
    ("deepseek-v3 with 4k context", {"seq_len": 4096}),
    ("deepseek-v3 ctx 512", {"seq_len": 512}),
    ("deepseek-v3 sequence length of 1024", {"seq_len": 1024}),
    ("deepseek-v3 sequence length 256 tokens", {"seq_len": 256}),
    ("deepseek-v3 with a 256-token context window", {"seq_len": 256}),
    ("deepseek-v3, context of 256 tokens, 5M tokens", {"seq_len": 256, "tokens": 5 * M}),
    ("deepseek-v3 block size 128", {"seq_len": 128}),
    ("deepseek-v3 block_size=128", {"seq_len": 128}),
    ("256 seq 10M params deepseek-v3", {"seq_len": 256, "params": 10 * M}),
    # tokens and steps
    ("deepseek-v3 tokens 5M", {"tokens": 5 * M}),
    ("deepseek-v3 5M tokens", {"tokens": 5 * M}),
    ("deepseek-v3 for 2B tokens", {"tokens": 2000 * M}),
    ("deepseek-v3 on 5,000,000 training tokens", {"tokens": 5 * M}),
    ("deepseek-v3 token budget 5M", {"tokens": 5 * M}),
    ("deepseek-v3 5M tokens 10M", {"params": 5 * M, "tokens": 10 * M}),
    ("deepseek-v3 5M tokens, 10M", {"tokens": 5 * M, "params": 10 * M}),
    ("deepseek-v3 10M params 5M tokens", {"params": 10 * M, "tokens": 5 * M}),
    ("deepseek-v3 on 20M tokens of TinyStories", {"tokens": 20 * M, "dataset": TINY}),
    ("deepseek-v3 1000 steps", {"steps": 1000}),
    ("deepseek-v3 for 20k optimizer steps", {"steps": 20_000}),
    ("deepseek-v3 steps=500 seed=3", {"steps": 500, "seed": 3}),
    ("10M seq 256 steps 1000 deepseek-v3", {"params": 10 * M, "seq_len": 256, "steps": 1000}),
    ("deepseek-v3 a thousand steps", {"steps": 1000}),
    # time
    ("deepseek-v3 for 20 minutes", {"time_budget_s": 1200}),
    ("deepseek-v3 in 2 h", {"time_budget_s": 7200}),
    ("deepseek-v3 within 1.5 hours", {"time_budget_s": 5400}),
    ("deepseek-v3, 90s", {"time_budget_s": 90}),
    ("deepseek-v3 1h30m", {"time_budget_s": 5400}),
    ("deepseek-v3, 1 h 30 min", {"time_budget_s": 5400}),
    ("deepseek-v3 for 10m", {"time_budget_s": 600}),
    ("deepseek-v3 10m for 10m", {"params": 10 * M, "time_budget_s": 600}),
    ("deepseek-v3 in about 10 min", {"time_budget_s": 600}),
    ("deepseek-v3 time budget 20m", {"time_budget_s": 1200}),
    ("deepseek-v3 time limit: 2h", {"time_budget_s": 7200}),
    ("deepseek-v3 budget of 2 hours", {"time_budget_s": 7200}),
    ("a 20-minute run of deepseek-v3", {"time_budget_s": 1200}),
    ("deepseek-v3 max 20 min", {"time_budget_s": 1200}),
    ("deepseek-v3 for two hours and thirty minutes", {"time_budget_s": 9000}),
    ("deepseek-v3 for half an hour", {"time_budget_s": 1800}),
    ("deepseek-v3 for an hour", {"time_budget_s": 3600}),
    # seed, money, publishing, metric, method
    ("deepseek-v3 seed 0", {"seed": 0}),
    ("deepseek-v3 [seed: 3]", {"seed": 3}),
    ("deepseek-v3 with a random seed of 42", {"seed": 42}),
    ("deepseek-v3 under $5", {"max_usd": 5}),
    ("deepseek-v3 for at most 5 USD", {"max_usd": 5}),
    ("deepseek-v3 and push to the hub", {"publish": "hub"}),
    ("deepseek-v3 and upload it to Hugging Face", {"publish": "hub"}),
    ("deepseek-v3 and publish it", {"publish": "hub"}),
    ("deepseek-v3, publish to a folder", {"publish": "folder"}),
    ("deepseek-v3, don't publish", {"publish": "none"}),
    ("deepseek-v3, do not push it to the hub", {"publish": "none"}),
    ("deepseek-v3 without publishing", {"publish": "none"}),
    ("deepseek-v3 publish none", {"publish": "none"}),
    ("pretrain deepseek-v3 from scratch", {"method": "pretraining"}),
    ("deepseek-v3 without fine-tuning", {"method": "pretraining"}),
    ("fine-tune deepseek-v3", {"method": "fine-tuning"}),
    ("finetuning of deepseek-v3", {"method": "fine-tuning"}),
    ("deepseek-v3 with LoRA", {"method": "LoRA"}),
    ("DPO on deepseek-v3", {"method": "DPO"}),
    ("continue pretraining deepseek-v3", {"method": "continued pretraining"}),
    (
        "deepseek-v3 judged by perplexity",
        {"metric": "held-out perplexity, exp of the recomputed cross-entropy in nats per token"},
    ),
]


@pytest.mark.parametrize(("sentence", "expected"), PHRASINGS, ids=[sentence for sentence, _ in PHRASINGS])
def test_a_phrasing_is_read(sentence: str, expected: dict[str, object]) -> None:
    assert values(sentence) == {"architecture": V3, **expected}


@pytest.mark.parametrize(
    "sentence",
    [
        "implement DeepSeek-V3 at 100M",
        "please could you train me a small-ish nothing",
        "DeepSeekV3 ~10m tokens 5M, seq 256, seed 7",
        "train a 2.5M-param deepseek v3 on data/my.txt for 20 minutes, and push it to the hub",
    ],
)
def test_only_what_was_not_read_is_listed(sentence: str) -> None:
    leftover = {"please could you train me a small-ish nothing": ("small-ish nothing",)}
    assert read_sentence(sentence).not_understood == leftover.get(sentence, ())


@pytest.mark.parametrize(
    ("sentence", "fragments"),
    [
        ("implement Llama 3 at 100M", ("Llama 3",)),
        ("deepseek-v3 overnight", ("overnight",)),
        ("deepseek-v3 and reach loss < 2.0", ("reach loss < 2.0",)),
        ("deepseek-v3 with the gpt2 tokenizer", ("gpt2 tokenizer",)),
        ("deepseek-v3, eval every 100 steps", ("eval every 100 steps",)),
        ("deepseek-v3 batch size 1M, lr 3e-4", ("batch size 1M", "lr 3e-4")),
        ("deepseek-v3 on my laptop", ("laptop",)),
        ("deepseek-v3 on 100k stories", ("100k stories",)),
        ("deepseek-v3 at 100M active parameters", ("100M active",)),
        ("deepseek-v3 with 1,5M params", ("1,5M params",)),
        ("deepseek-v3 with top-2 routing", ("top-2 routing",)),
        ("implement arXiv 2005.14165", ("arXiv 2005.14165",)),
    ],
)
def test_numbers_and_words_without_a_place_are_left_over_and_set_nothing(
    sentence: str, fragments: tuple[str, ...]
) -> None:
    reading = read_sentence(sentence)
    assert reading.not_understood == fragments
    assert {part.field for part in reading.understood} <= {Field.ARCHITECTURE, Field.PARAMS}
    assert reading.count(Field.PARAMS) in {None, 100 * M}


@pytest.mark.parametrize(
    "name",
    [
        "DeepSeek-V2",
        "deepseek v2",
        "DeepSeekV4",
        "DeepSeek-V3.1",
        "DeepSeek-V3.2-Exp",
        "DeepSeek-V3-Lite",
        "DeepSeek-V3-0324",
        "DeepSeek-R1",
        "mini-DeepSeek-V3",
    ],
)
def test_a_near_miss_is_not_taken_for_a_known_architecture(name: str) -> None:
    reading = read_sentence(f"implement {name} at 100M")
    assert reading.text(Field.ARCHITECTURE) is None
    assert [conflict.field for conflict in reading.conflicts] == [Field.ARCHITECTURE]
    assert reading.conflicts[0].said == (name,)


@pytest.mark.parametrize(
    "sentence",
    ["implement deepseek", "Llama 3", "train GPT-2", "Qwen3 at 1B", "deepseek-ai/DeepSeek-V2", "v3", "arXiv"],
)
def test_another_architecture_is_not_read_as_a_known_one(sentence: str) -> None:
    assert read_sentence(sentence).values(Field.ARCHITECTURE) == ()


@pytest.mark.parametrize(
    ("sentence", "field"),
    [
        ("deepseek-v3 with 5M params and 10M parameters", Field.PARAMS),
        ("deepseek-v3 100M, 10m", Field.PARAMS),
        ("deepseek-v3 between 1M and 10M", Field.PARAMS),
        ("deepseek-v3 for 20M", Field.PARAMS),
        ("deepseek-v3 on 5M", Field.PARAMS),
        ("deepseek-v3 under 10m", Field.PARAMS),
        ("deepseek-v3 1-10M", Field.PARAMS),
        ("deepseek-v3 for 20-30 minutes", Field.TIME_BUDGET),
        ("deepseek-v3 for 1h, within 20 minutes", Field.TIME_BUDGET),
        ("deepseek-v3 budget 10M", Field.TIME_BUDGET),
        ("deepseek-v3 on a.txt and b.txt", Field.DATASET),
        ("deepseek-v3 on my data", Field.DATASET),
        ("deepseek-v3 using our own texts", Field.DATASET),
        ("deepseek-v3 seed 1 seed 2", Field.SEED),
        ("deepseek-v3 seq 128, ctx 256", Field.SEQ_LEN),
        ("deepseek-v3 push to the hub but don't upload", Field.PUBLISH),
        ("deepseek-v2 and deepseek-v3", Field.ARCHITECTURE),
    ],
)
def test_what_has_no_single_meaning_is_a_conflict_and_has_no_value(sentence: str, field: Field) -> None:
    reading = read_sentence(sentence)
    assert [conflict.field for conflict in reading.conflicts] == [field]
    assert reading.conflicts[0].message
    assert reading.text(field) is None
    assert reading.amount(field) is None


@pytest.mark.parametrize(
    "sentence",
    [
        "deepseek-v3 at -5M",
        "deepseek-v3 at 0M",
        "deepseek-v3 with 0 params",
        "deepseek-v3 at 99999T",
        "deepseek-v3 for -5 minutes",
        "deepseek-v3 for -10m",
        "deepseek-v3 for 0h",
        "deepseek-v3 for 9999 weeks",
        "deepseek-v3 seed -1",
        "deepseek-v3 seed 1.5",
        "deepseek-v3 0 steps",
        "deepseek-v3 seq 1",
        "deepseek-v3 seq 1M",
        "deepseek-v3 tokens=-5M",
        "deepseek-v3 under $0",
        "deepseek-v3 " + "very " * 1000,
    ],
)
def test_absurd_sizes_are_refused(sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_sentence(sentence)
    assert caught.value.hint


FRAGMENTS = st.sampled_from(
    str.split(
        """
        implement train DeepSeek-V3 deepseek v3 DeepSeek-V2 - , . : = ( ) " ' ~ $ / # 7 0 256 1k 10m 10M 100M
        -5M 1h30m 20 min minutes hours tokens params steps seq seed context of on for in at under dataset data
        my the TinyStories a/b data/x.txt builtin:stories column push hub not don't publish fine tune LoRA
        metric loss half an one hundred million every per 2412.19437 arXiv 1,000 1,5M 20-30 batch size USD"""
    )
)


@settings(deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(FRAGMENTS, max_size=25).map(" ".join)))
def test_any_text_is_read_or_refused_and_no_value_comes_from_outside_it(sentence: str) -> None:
    try:
        reading = read_sentence(sentence)
    except InvalidInput:
        return
    end = 0
    for part in reading.understood:
        assert end <= part.start < part.end <= len(sentence)
        end = part.end
        written = sentence[part.start : part.end]
        if isinstance(part.value, int | float):
            assert any(character.isdigit() for character in written) or any(
                word in written.lower() for word in ("one", "half", "a", "million", "hundred")
            )
        # The part alone says the same, so nothing was taken from elsewhere.
        if part.field is Field.ARCHITECTURE:
            assert read_sentence(written).values(Field.ARCHITECTURE) == (part.value,)
    for fragment in reading.not_understood:
        assert fragment in sentence
