from __future__ import annotations

import pytest
from hypothesis import example, given, settings
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
    ("https://doi.org/10.48550/arXiv.2412.19437", {}),
    ("deepseek-ai/DeepSeek-V3-Base", {}),
    ("https://github.com/deepseek-ai/DeepSeek-V3.git", {}),
    ("https://huggingface.co/deepseek-ai/DeepSeek-V3/tree/main", {}),
    ("deepseek-v3 with the gpt2 tokenizer", {}),
    ("deepseek-v3 instead of Llama 3", {}),
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
    ("10M-deepseek-v3", {"params": 10 * M}),
    ("deepseek-v3 with twenty-five million parameters", {"params": 25 * M}),
    ("deepseek-v3 with one hundred and fifty million parameters", {"params": 150 * M}),
    ("deepseek-v3 with one point five million parameters", {"params": 1_500_000}),
    ("deepseek-v3 with two and a half million params", {"params": 2_500_000}),
    ("deepseek-v3 with 100 000 000 parameters", {"params": 100 * M}),
    ("deepseek-v3, 100Mparams", {"params": 100 * M}),
    ("deepseek-v3 avec 10M paramètres", {"params": 10 * M}),
    ("deepseek-v3,10M,20min,seed=7", {"params": 10 * M, "time_budget_s": 1200, "seed": 7}),
    ("deepseek-v3 10M focus on speed", {"params": 10 * M}),
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
    ("deepseek-v3 on the text column of x.csv", {"dataset": "x.csv", "dataset_column": "text"}),
    ('deepseek-v3 on "TinyStories"', {"dataset": TINY}),
    ("deepseek-v3 on huggingface.co/datasets/roneneldan/TinyStories", {"dataset": TINY}),
    ("deepseek-v3 on my file notes.txt", {"dataset": "notes.txt"}),
    ("deepseek-v3 on our data in ./corpus", {"dataset": "./corpus"}),
    ("deepseek-v3 on 100-0.txt", {"dataset": "100-0.txt"}),
    ("deepseek-v3 on C:\\Users\\me\\x.txt", {"dataset": "C:\\Users\\me\\x.txt"}),
    ("deepseek-v3 on C:/Users/me/x.txt", {"dataset": "C:/Users/me/x.txt"}),
    ("deepseek-v3 on s3://bucket/x.txt", {"dataset": "s3://bucket/x.txt"}),
    ("deepseek-v3 on TinyStories instead of wikitext-2", {"dataset": TINY}),
    ("deepseek-v3 on TinyStories, evaluate on wikitext-2", {"dataset": TINY}),
    ("deepseek-v3 on TinyStories-20min", {"dataset": TINY, "time_budget_s": 1200}),
    ("deepseek-v3 on a.txt, save to out/x.txt", {"dataset": "a.txt"}),
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
    ("deepseek-v3 256 tokens of context", {"seq_len": 256}),
    ("deepseek-v3 sequences of length 256", {"seq_len": 256}),
    ("deepseek-v3, set the context to 256", {"seq_len": 256}),
    ("deepseek-v3 512 context 1h", {"seq_len": 512, "time_budget_s": 3600}),
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
    ("deepseek-v3 20Mtokens", {"tokens": 20 * M}),
    ("deepseek-v3, a budget of 1B tokens", {"tokens": 1000 * M}),
    ("deepseek-v3 2h 5M tokens", {"time_budget_s": 7200, "tokens": 5 * M}),
    ("deepseek-v3 8k vocab 5M tokens", {"tokens": 5 * M}),
    ("deepseek-v3 for 1000 gradient steps", {"steps": 1000}),
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
    ("deepseek-v3 for an hour and a half", {"time_budget_s": 5400}),
    ("deepseek-v3 for a half hour", {"time_budget_s": 1800}),
    ("deepseek-v3 for a quarter of an hour", {"time_budget_s": 900}),
    ("deepseek-v3 for forty-five minutes", {"time_budget_s": 2700}),
    ("deepseek-v3 for 1 hour, 30 minutes", {"time_budget_s": 5400}),
    ("deepseek-v3 1h, 10m", {"time_budget_s": 3600, "params": 10 * M}),
    ("deepseek-v3 1h 10M", {"time_budget_s": 3600, "params": 10 * M}),
    ("deepseek-v3 for no more than 20 minutes", {"time_budget_s": 1200}),
    ("deepseek-v3 in less than 20 minutes", {"time_budget_s": 1200}),
    # seed, money, publishing, metric, method
    ("deepseek-v3 seed 0", {"seed": 0}),
    ("deepseek-v3 [seed: 3]", {"seed": 3}),
    ("deepseek-v3 with a random seed of 42", {"seed": 42}),
    ("deepseek-v3 under $5", {"max_usd": 5}),
    ("deepseek-v3 for at most 5 USD", {"max_usd": 5}),
    ("deepseek-v3, a budget of 5 dollars", {"max_usd": 5}),
    ("deepseek-v3 10M $5", {"params": 10 * M, "max_usd": 5}),
    ("deepseek-v3 10M $(whoami)", {"params": 10 * M}),
    ("deepseek-v3, set the seed to forty-two", {"seed": 42}),
    ("deepseek-v3 and push to the hub", {"publish": "hub"}),
    ("deepseek-v3 and upload it to Hugging Face", {"publish": "hub"}),
    ("deepseek-v3 and publish it", {"publish": "hub"}),
    ("deepseek-v3, publish to a folder", {"publish": "folder"}),
    ("deepseek-v3, don't publish", {"publish": "none"}),
    ("deepseek-v3, do not push it to the hub", {"publish": "none"}),
    ("deepseek-v3 without publishing", {"publish": "none"}),
    ("deepseek-v3 publish none", {"publish": "none"}),
    ("deepseek-v3, publish=none", {"publish": "none"}),
    ("deepseek-v3, publish: no", {"publish": "none"}),
    ("deepseek-v3, publish: hub", {"publish": "hub"}),
    ("deepseek-v3, push_to_hub=False", {"publish": "none"}),
    ("deepseek-v3, it shouldn't be published", {"publish": "none"}),
    ("deepseek-v3, nothing should be uploaded", {"publish": "none"}),
    ("deepseek-v3, no need to publish", {"publish": "none"}),
    ("deepseek-v3, don’t even think about uploading it", {"publish": "none"}),
    ("deepseek-v3, don't share it", {"publish": "none"}),
    ("deepseek-v3, keep it private", {"publish": "none"}),
    ("deepseek-v3, publishing off", {"publish": "none"}),
    ("deepseek-v3 without MTP, push everything to the hub", {"publish": "hub"}),
    ("deepseek-v3 without MTP push to hub", {"publish": "hub"}),
    ("reproduce the published results of deepseek-v3", {}),
    ("deepseek-v3, push to me/my-model", {"publish": "hub"}),
    ("pretrain deepseek-v3 from scratch", {"method": "pretraining"}),
    ("deepseek-v3 without fine-tuning", {"method": "pretraining"}),
    ("fine-tune deepseek-v3", {"method": "fine-tuning"}),
    ("finetuning of deepseek-v3", {"method": "fine-tuning"}),
    ("deepseek-v3 with LoRA", {"method": "LoRA"}),
    ("DPO on deepseek-v3", {"method": "DPO"}),
    ("continue pretraining deepseek-v3", {"method": "continued pretraining"}),
    ("deepseek-v3 without SFT or RL", {"method": "pretraining"}),
    ("deepseek-v3 with kv_lora_rank 64", {}),
    ("deepseek-v3 not from scratch", {"method": "training that is not from scratch"}),
    ("start from pretrained deepseek-v3", {"method": "training from given weights"}),
    ("resume training deepseek-v3", {"method": "training from given weights"}),
    ("please evaluate deepseek-v3", {"method": "evaluation"}),
    ("what is deepseek-v3?", {"method": "an explanation"}),
    ("deepseek-v3, don't report perplexity", {}),
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
        ("deepseek-v3 with 10^8 params", ("10^8 params",)),
        ("deepseek-v3 for 1:30h", ("1:30h",)),
        ("deepseek-v3 at 1% scale", ("1% scale",)),
        ("deepseek-v3 at GPT-2 scale", ("GPT-2 scale",)),
        ("deepseek-v3 with 20M tweets", ("20M tweets",)),
        ("deepseek-v3 with 100M active", ("100M active",)),
        ("deepseek-v3 with 1000 sequences", ("1000 sequences",)),
        ("deepseek-v3, batch size 64k tokens", ("batch size 64k tokens",)),
        ("deepseek-v3, 64k-token batches", ("64k-token batches",)),
        ("deepseek-v3, 1M tokens a step", ("1M tokens",)),
        ("deepseek-v3, warmup 100 steps", ("warmup 100 steps",)),
        ("deepseek-v3, 1000 steps of warmup", ("1000 steps of warmup",)),
        ("deepseek-v3, eval interval of 500 steps", ("eval interval of 500 steps",)),
        ("deepseek-v3, gradient_accumulation_steps=8", ("gradient_accumulation_steps=8",)),
        ("deepseek-v3, evaluate on 100k tokens", ("evaluate on 100k tokens",)),
        ("deepseek-v3, 1M validation tokens", ("1M validation",)),
        ("deepseek-v3, generate 100 tokens", ("generate 100 tokens",)),
        ("deepseek-v3, 20 tokens/param", ("20 tokens/param",)),
        ("deepseek-v3 at 5k tok/s", ("5k tok/s",)),
        ("deepseek-v3 at $2 an hour", ("2 an hour",)),
        ("deepseek-v3, yes/no, GPU/CPU", ("yes/no", "GPU/CPU")),
        ("deepseek-v3 over the weekend", ("weekend",)),
        ("deepseek-v3 with data parallelism", ("parallelism",)),
        ("deepseek-v3, save it in /tmp/model", ("save it in /tmp/model",)),
        ("deepseek-v3 > out.txt", ("out.txt",)),
        ("deepseek-v3, push the limits", ("push the limits",)),
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
        ("deepseek-v3 and GPT-2", Field.ARCHITECTURE),
        ("Llama 3 with deepseek-v3's MLA", Field.ARCHITECTURE),
        ("deepseek-v3 vs deepseek-v2", Field.ARCHITECTURE),
        ("deepseek-v3 with 5M to 10M tokens", Field.TOKENS),
        ("deepseek-v3 for 20 to 30 minutes", Field.TIME_BUDGET),
        ("deepseek-v3 between 20 and 30 minutes", Field.TIME_BUDGET),
        ("deepseek-v3 for an hour or two", Field.TIME_BUDGET),
        ("deepseek-v3 for at least 20 minutes", Field.TIME_BUDGET),
        ("deepseek-v3 for over an hour", Field.TIME_BUDGET),
        ("deepseek-v3 20 minutes or more", Field.TIME_BUDGET),
        ("deepseek-v3 on no less than 5M tokens", Field.TOKENS),
        ("deepseek-v3 with 10M+ params", Field.PARAMS),
        ("deepseek-v3 with >= 10M params", Field.PARAMS),
        ("deepseek-v3 with less than 10M params", Field.PARAMS),
        ("deepseek-v3, 10x smaller than 671B", Field.PARAMS),
        ("deepseek-v3 seed 1 and 2", Field.SEED),
        ("deepseek-v3 seq 256-512", Field.SEQ_LEN),
        ("deepseek-v3 $5-10", Field.MAX_USD),
        ("deepseek-v3 on TinyStories-v2", Field.DATASET),
        ("deepseek-v3 on fineweb-10BT", Field.DATASET),
        ("deepseek-v3 on a small dataset", Field.DATASET),
        ("deepseek-v3 on my data/all books.txt", Field.DATASET),
        ("deepseek-v3, publish to ./out", Field.PUBLISH),
        ("deepseek-v3, push it to S3", Field.PUBLISH),
        ("deepseek-v3, publish privately", Field.PUBLISH),
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
        "deepseek-v3 for -$5",
        "deepseek-v3 for $-5",
        "deepseek-v3 at minus 5M",
        "deepseek-v3 with negative 5M params",
        "deepseek-v3 with zero parameters",
        "deepseek-v3 for 1.5 steps",
        "deepseek-v3 " + "very " * 1000,
    ],
)
def test_absurd_sizes_are_refused(sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_sentence(sentence)
    assert caught.value.hint


def test_what_stands_between_publishing_and_its_place_is_not_lost() -> None:
    assert read_sentence("deepseek-v3, push 20M params to the hub").count(Field.PARAMS) == 20 * M
    assert read_sentence("deepseek-v3, push to me/my-model").not_understood == ("me/my-model",)


FRAGMENTS = st.sampled_from(
    str.split(
        """
        implement train DeepSeek-V3 deepseek v3 DeepSeek-V2 - , . : = ( ) " ' ~ $ / # 7 0 256 1k 10m 10M 100M
        -5M 1h30m 20 min minutes hours tokens params steps seq seed context of on for in at under dataset data
        my the TinyStories a/b data/x.txt builtin:stories column push hub not don't publish fine tune LoRA
        metric loss half an one hundred million every per 2412.19437 arXiv 1,000 1,5M 20-30 batch size USD
        minus and or twenty five 000 least more than + ^ :30h % vs GPT-2 evaluate save step column"""
    )
)


@settings(deadline=None)
@example(sentence='COLUMN"THAN"LORA')
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
                word in written.lower()
                for word in ("one", "half", "a", "million", "hundred", "twenty", "five")
            )
        # The part alone says the same, so nothing was taken from elsewhere.
        if part.field is Field.ARCHITECTURE:
            assert read_sentence(written).values(Field.ARCHITECTURE) == (part.value,)
    for fragment in reading.not_understood:
        assert fragment in sentence
