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
    "zero": 0,
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
    "eleven": 11,
    "twelve": 12,
    "thirteen": 13,
    "fourteen": 14,
    "fifteen": 15,
    "sixteen": 16,
    "seventeen": 17,
    "eighteen": 18,
    "nineteen": 19,
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
}
FRACTION_WORDS = {"half": 0.5, "quarter": 0.25}
MINUS_WORDS = frozenset({"minus", "negative"})

UNITS_IN_FULL = _words("thousand million billion trillion minute hour day week")

APPROXIMATELY = _words("~ ≈ about around roughly approximately approx circa ca nearly exactly just only some")

NOUNS: dict[str, Field | None] = _meanings(
    {
        Field.PARAMS: """
            param params parameter parameters paramcount parametercount size modelsize scale paramètres
            parámetros parâmetros parametern parametri""",
        Field.TOKENS: "token tokens tok toks tokenbudget tokencount numtokens maxtokens",
        Field.STEPS: "step steps iteration iterations iter iters numsteps maxsteps gradientsteps",
        Field.SEQ_LEN: """
            seq seqlen seqlength sequence sequences sequencelength sequencelen maxseqlen maxseqlength
            sequenceoflength sequencesoflength
            blocksize context contexts contextlength contextlen contextwindow contextsize ctx ctxlen
            ctxlength tokencontext tokencontextwindow tokencontextlength tokenctx tokensequence
            tokensequences""",
        Field.SEED: "seed randomseed rngseed",
        Field.TIME_BUDGET: "time budget timebudget timelimit timecap computebudget deadline",
        None: """
            layer layers head heads expert experts learningrate lr batch batches batchsize microbatch
            microbatchsize warmup warmupsteps vocab vocabulary vocabsize vocabularysize hiddensize dim dims
            width depth weightdecay dropout temperature rank bs bsz accumulation accum gradientaccumulation
            gradaccum accumulationsteps accumsteps interval theta kvlorarank qlorarank datasetsize
            corpussize datasize evaltokens evaluationtokens validationtokens""",
    }
)
"""Nouns that a number belongs to, before or after it. ``None``: known, but no task has a place for it."""

COUNTED_IN_UNITS = _words(
    """
    batch batches batchsize microbatch microbatchsize warmup vocab vocabulary vocabsize vocabularysize
    accumulation accum gradientaccumulation gradaccum interval datasetsize corpussize datasize"""
)
"""Those of them that are counted in tokens or steps: "batch size 64k tokens", "warmup 100 steps"."""

COUNTED_THINGS = _words(
    """
    activeparams activeparameters activatedparams activatedparameters nonembeddingparams
    nonembeddingparameters active activated embeddingparams embeddingparameters sequences contexts entry
    entries char chars memory ram vram epoch epochs path paths retry retries gpu gpus gpuhours cpu cpus
    core cores node nodes gb gib mb mib run runs checkpoint checkpoints example examples document documents
    docs story stories sample samples row rows line lines sentence sentences word words character
    characters byte bytes tokenizer bpe"""
)
"""What a number before it counts, so that it is no size of a model; no task has a place for these. So do
other words in the plural: 20M tweets."""

NO_PLURALS = _words("plus minus perhaps always sometimes towards besides afterwards thus whereas weights")

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
RATE_UNITS = _words("s step batch update second sec minute hour day param parameter gpu")
"""After "a" these make a rate of what stands before: 1M tokens a step."""

RANGE_WORDS = _words("to or through till until")
MORE_WORDS = _words("more longer larger bigger greater higher")
LESS_WORDS = _words("less fewer shorter smaller lower")

OTHER_WORK = _words(
    """
    eval evaluate evaluated evaluating evaluation validate validated validating validation generate
    generates generating generation sample samples sampling predict predicts predicting
    warmup"""
)
"""What is done with the data or the number after these is no training."""

CURRENCY = _words("$ us$ usd dollar dollars")

# Phrases

NEGATIONS = _words(
    """
    not no dont cant cannot wont shouldnt mustnt isnt nothing without never unlike skip avoid disable versus
    vs against than"""
)
"""And every word that ends with n't."""

NEGATION_FILLERS = _words("should must dare think even ever going")
"""May stand between a negation and what it negates, as stop words may: don't even think about publishing."""

CONJUNCTIONS = _words("and or but then so also if")
"""What is negated before these is negated no more behind them."""

ARCHITECTURE_SUFFIXES = _words("style like type based base architecture arch model")
"""May be glued to an architecture's name without making it another one."""

COMPARISONS = _words("vs versus")

OTHER_ARCHITECTURES = _words(
    """
    gpt gpt1 gpt2 gpt3 gpt4 gptneo gptj gptoss llama llama1 llama2 llama3 llama4 qwen qwen2 qwen3
    mistral mixtral gemma gemma2 gemma3 phi phi2 phi3 phi4 mamba mamba2 rwkv bert roberta t5 olmo olmo2
    pythia falcon kimi glm smollm"""
)
"""Named beside a known architecture, these leave open which of the two is meant."""

NOT_ARCHITECTURES = _words("tokenizer tokeniser vocab vocabulary bpe scale size sized style paper recipe")
"""Behind another architecture's name, these make it something else than what is to be built."""

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
        "training from given weights": """
            continuetraining resumetraining loadpretrained loadthepretrained fromcheckpoint
            fromacheckpoint pretrainedweights pretrainedcheckpoint frompretrained fromthepretrained
            releasedweights releasedcheckpoint officialweights""",
    }
)

OTHER_TASKS = _meanings(
    {
        "evaluation": "evaluate benchmark",
        "a comparison": "compare",
        "an explanation": "explain describe summarize summarise whatis",
        "inference": "inference serve deploy chatwith",
        "a download": "download",
        "pruning": "prune",
        "conversion": "convert export",
        "training from given weights": "continue resume",
    }
)
"""What a sentence asks for that begins so."""

PUBLISH_VERBS = _words("publish publishing push pushing upload uploading bepublished bepushed beuploaded")
PUBLISH_VERBS_IF_NEGATED = _words("published uploaded share sharing bereleased release releasing")
"""Without a negation these are too often something else: the published results, shared experts."""

PUBLISH_OBJECTS = _words("everything weights result results checkpoint final trained best winner repo")
"""May stand between the verb and the place, as stop words may."""

SWITCHED_OFF = _words("no none false off never nothing nowhere 0")
PRIVACY = _words("private privately secretly")
KEPT_LOCAL = _words("keepitlocal keepitprivate keeplocal keepprivate localonly")
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

NAMING_MARKERS = _words("on dataset corpus")
"""After these a plain word is a dataset's name; after the others only where "dataset" stands too."""

DATA_NOUNS = _words("dataset datasets data corpus corpora file files text texts")
DETERMINERS = _words("the a an called named in at from to is : =") | DATA_NOUNS
VAGUE_DETERMINERS = _words(
    """
    my our your their own this that these those some any no same whole small tiny toy large big public
    synthetic random original real dummy fake sample english french german spanish chinese"""
)
DESTINATION_WORDS = _words("to into onto as >")
OUTPUT_VERBS = _words("save saving store storing write output dump log export put")
"""A path behind these is where something goes, not what is learned from."""

NOT_NAMING = _words("based focus focused focusing depending working")
"""Before "on" these make of it something else: focus on speed."""

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
    hub tpus amd nvidia intel rtx gtx metal mlx jax tensorflow ubuntu docker kaggle github aws gcp azure
    modal runpod monday tuesday wednesday thursday friday saturday sunday weekend night vacation side
    anything everything something whatever speed quality efficiency memory disk english french german
    spanish chinese none unknown tbd streaming parallel parallelism augmentation loader loading size
    input output yes client encoder column columns"""
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
