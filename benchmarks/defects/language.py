"""The language-model programs: three architectures, each with and without experts, on built-in stories.

Small enough that a training takes some seconds on one core and yet writes what the judge calls language.
"""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path

from benchmarks.defects.case import Half, Program
from benchmarks.defects.easy_stories import EasyStories
from benchmarks.defects.language_score import heldout_score
from ml_intern_cli.access import HubAccess
from ml_intern_cli.data.shards import write_shards
from ml_intern_cli.data.tokenizers import fit_tokenizer
from ml_intern_cli.resources import resource

_PROGRAMS = Path(__file__).parent / "programs"
VOCAB_SIZE = 512
TRAIN_TOKENS = 1_000_000
EVAL_TOKENS = 60_000


def build_stories(data_dir: Path) -> None:
    """``data/`` of a run, made by the project's own code."""
    source = EasyStories(seed=0)

    def silent(done: int, total: int, what: str) -> None:
        del done, total, what

    tokenizer = fit_tokenizer(
        source, data_dir, vocab_size=VOCAB_SIZE, hub_id=None, hub=HubAccess(offline=True), progress=silent
    )
    write_shards(
        source,
        data_dir,
        tokenizer=tokenizer,
        train_tokens=TRAIN_TOKENS,
        eval_tokens=EVAL_TOKENS,
        progress=silent,
    )


def _files(name: str, architecture: str) -> dict[str, str]:
    """Everything of a healthy path; the programs are the project's own templates."""
    own = {file: (_PROGRAMS / name / file).read_text() for file in ("config.json", "train_config.json")}
    templates = {file: Path(resource("templates", file)).read_text() for file in ("train.py", "eval.py")}
    return {"model.py": (_PROGRAMS / architecture / "model.py").read_text()} | own | templates


@cache
def _parameters(path_dir: Path) -> int:
    from ml_intern_cli.judge.artifact import Artifact, count_parameters

    return count_parameters(Artifact(path_dir).build(seed=0))


def judge_arguments(path_dir: Path, action: str) -> list[str]:
    """What the stages pass: sizes and token counts of the plan, which is the healthy configuration."""
    config = json.loads((path_dir / "train_config.json").read_text())
    arguments = ["--target-params", str(_parameters(path_dir)), "--num-threads", "1"]
    if action == "smoke":
        return arguments
    tokens = config["steps"] * config["micro_batch"] * config["accumulation"] * config["seq_len"]
    return [*arguments, "--planned-tokens", str(tokens), "--seed", str(config["seed"])]


def _program(name: str, architecture: str, half: Half, what: str) -> Program:
    return Program(
        name=name,
        task="language",
        half=half,
        what=what,
        data="stories",
        build_data=build_stories,
        files=partial(_files, name, architecture),
        judge_arguments=judge_arguments,
        heldout_score=heldout_score,
    )


PROGRAMS = (
    _program("gpt2", "gpt2", Half.CALIBRATION, "learned positions, LayerNorm, dropout, tied head"),
    _program("llama_moe", "llama", Half.CALIBRATION, "rotary, RMSNorm, grouped queries, 2 of 4 experts"),
    _program("mla", "mla", Half.CALIBRATION, "latent attention, SwiGLU, tied head"),
    _program("gpt2_moe", "gpt2", Half.REPORT, "learned positions, LayerNorm, 2 of 4 experts, balancing loss"),
    _program("llama", "llama", Half.REPORT, "rotary, RMSNorm, grouped queries, SwiGLU"),
    _program("mla_moe", "mla", Half.REPORT, "latent attention, shared and 2 of 4 experts, balancing bias"),
)
LANGUAGE = tuple(program.name for program in PROGRAMS)
