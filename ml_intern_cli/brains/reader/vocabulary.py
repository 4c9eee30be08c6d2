"""The words the reader knows. Phrases are spelt without spaces and hyphens: contextlength."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

T = TypeVar("T")


class Field(StrEnum):
    """What a sentence can say."""

    ARCHITECTURE = "architecture"
    PARAMS = "params"
    DATASET = "dataset"
    DATASET_COLUMN = "dataset_column"
    SEQ_LEN = "seq_len"
    TOKENS = "tokens"
    STEPS = "steps"
    TIME_BUDGET = "time_budget_s"
    MAX_USD = "max_usd"
    SEED = "seed"
    PUBLISH = "publish"
    METRIC = "metric"
    METHOD = "method"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _meanings(words_of: Mapping[T, str]) -> dict[str, T]:
    return {word: meaning for meaning, words in words_of.items() for word in words.split()}


# Numbers

NUMBER_WORDS = {
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "twelve": 12,
    "fifteen": 15,
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "ninety": 90,
}

UNITS_IN_FULL = _words("thousand million billion trillion minute hour day week")

APPROXIMATELY = _words("~ ≈ about around roughly approximately approx circa ca nearly exactly just only some")

NOUNS: dict[str, Field | None] = _meanings(
    {
        Field.PARAMS: "param params parameter parameters paramcount parametercount size modelsize scale",
        Field.TOKENS: "token tokens tokenbudget tokencount numtokens maxtokens",
        Field.STEPS: "step steps iteration iterations iter iters numsteps maxsteps",
        Field.SEQ_LEN: """
            seq seqlen seqlength sequence sequences sequencelength sequencelen maxseqlen maxseqlength
            blocksize context contexts contextlength contextlen contextwindow contextsize ctx ctxlen
            ctxlength tokencontext tokencontextwindow tokencontextlength tokenctx tokensequence
            tokensequences""",
        Field.SEED: "seed randomseed rngseed",
        Field.TIME_BUDGET: "time budget timebudget timelimit timecap computebudget deadline",
        None: """
            layer layers head heads expert experts learningrate lr batch batches batchsize microbatch
            microbatchsize warmup warmupsteps vocab vocabulary vocabsize vocabularysize hiddensize dim dims
            width depth weightdecay dropout temperature rank""",
    }
)
"""Nouns that a number belongs to, before or after it. ``None``: known, but no task has a place for it."""

COUNTED_THINGS = _words(
    """
    activeparams activeparameters activatedparams activatedparameters nonembeddingparams
    nonembeddingparameters epoch epochs path paths retry retries gpu gpus gpuhours cpu cpus core cores node
    nodes gb gib mb mib run runs checkpoint checkpoints example examples document documents docs story
    stories sample samples row rows line lines sentence sentences word words character characters byte bytes
    tokenizer bpe"""
)
"""What a number before it counts, so that it is no size of a model; no task has a place for these."""

LONGEST_NOUN = 3  # words: "token context window"

ADJECTIVES = _words("training total trainable train model optimizer optimiser unique max")
"""May stand between a number and its noun: 5M training tokens."""

STRONG_CONNECTORS = _words("of = : is")
"""Stand between a noun and the number that certainly belongs to it: sequence length of 256."""

MINUTE_PREPOSITIONS = _words("for in within during")
"""Before 10m these make it minutes."""

LIMIT_WORDS = _words("under below max maximum most to than over limit")
"""Before 10m these leave open whether it is minutes or millions."""

RATE_WORDS = _words("per each every")
CURRENCY = _words("$ us$ usd dollar dollars")

# Phrases

NEGATIONS = _words("not no don't dont without never unlike skip avoid versus vs against than")

ARCHITECTURE_SUFFIXES = _words("style like type based base architecture arch model")
"""May be glued to an architecture's name without making it another one."""

PRETRAINING = _words("pretrain pretraining pretrained fromscratch frominitialisation frominitialization")

UNSUPPORTED_METHODS = _meanings(
    {
        "fine-tuning": """
            finetune finetuning finetuned finetunes finetuner sft supervisedfinetuning supervisedfinetune""",
        "LoRA": "lora",
        "QLoRA": "qlora",
        "PEFT": "peft",
        "DPO": "dpo",
        "RLHF": "rlhf",
        "GRPO": "grpo",
        "PPO": "ppo",
        "KTO": "kto",
        "ORPO": "orpo",
        "reinforcement learning": "reinforcementlearning rl",
        "distillation": "distill distil distilling distillation distilled",
        "instruction tuning": "instructiontune instructiontuning instructiontuned",
        "post-training": "posttrain posttraining",
        "continued pretraining": "continuepretraining continuedpretraining continualpretraining",
        "quantisation": "quantize quantise quantized quantised quantization quantisation",
    }
)

PUBLISH_VERBS = _words("publish publishing published push pushing upload uploading")
PUBLISH_PLACES = _meanings(
    {
        "hub": "hub huggingface hf huggingfacehub hfhub",
        "folder": "folder directory dir locally local disk",
        "none": "none nothing nowhere",
    }
)

METRIC_TRIGGERS = _words(
    "metric successmetric judgedby measuredby optimizefor optimisefor minimize minimise report criterion"
)
METRICS = _meanings(
    {
        "held-out cross-entropy in nats per token, recomputed": """
            loss evalloss validationloss valloss heldoutloss testloss crossentropy""",
        "held-out perplexity, exp of the recomputed cross-entropy in nats per token": "perplexity ppl",
        "held-out bits per byte, recomputed": "bitsperbyte bpb",
    }
)

# Datasets

DATASET_MARKERS = _words("on over using with from of dataset datasets data corpus")

NAMING_MARKERS = _words("on over dataset corpus")
"""After these a plain word is a dataset's name; after the others only where "dataset" stands too."""

DATA_NOUNS = _words("dataset datasets data corpus corpora file files text texts")
DETERMINERS = _words("the a an called named in at from to is : =") | DATA_NOUNS
VAGUE_DETERMINERS = _words("my our your their own this that these those some")

KNOWN_DATASETS = _meanings(
    {
        "builtin:stories": "builtinstories builtincorpus builtindata builtindataset",
        "roneneldan/TinyStories": "tinystories",
        "karpathy/tiny_shakespeare": "tinyshakespeare",
        "Skylion007/openwebtext": "openwebtext",
        "HuggingFaceFW/fineweb": "fineweb",
        "HuggingFaceFW/fineweb-edu": "finewebedu",
        "Salesforce/wikitext:wikitext-2-raw-v1": "wikitext2",
        "Salesforce/wikitext:wikitext-103-raw-v1": "wikitext103",
    }
)
"""Datasets that everybody calls by a short name, and where the Hub keeps them."""

NOT_DATASETS = _words(
    """
    and/or train/val train/eval train/test tokens/s tok/s w/ w/o n/a i/o cpu cpus gpu gpus cuda mps tpu
    laptop machine computer server cluster colab linux mac macos windows core cores hardware device
    devices node a100 h100 h200 b200 t4 v100 average time top schedule budget demand purpose it scratch
    hub"""
)

# What carries no meaning by itself

STOP_WORDS = _words(
    """
    a an the this that these those it its i we you me us my our your he they is are be been am was were
    do does did to of in on at by for from with within into as and or but then than so if also too via
    per up out over under please kindly can could would should will want wants need needs like let lets
    help try just now here there implement implementing implementation train training trained trains
    reproduce reproducing replicate build building create creating make making write writing run running
    develop launch start get give have use using used do perform take set model models language
    languagemodel lm llm llms network neural net architecture arch version paper style parameter
    parameters param params token tokens step steps dataset data corpus size scale length len budget seed
    about around approximately roughly exactly only some most max maximum limit least ml intern new own
    hello hi hey thanks thank yes ok okay random good nice all any what which who how and/or w/
    transformer decoder causal pytorch torch code"""
)
