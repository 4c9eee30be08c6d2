from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ml_intern_cli.brains import blueprints
from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.resources import resource

STAND_IN = """
from dataclasses import dataclass

NAME = "tiny-net"
TITLE = "Tiny Net"
ALIASES = ("tn",)
ARXIV_IDS = ("1234.56789",)


@dataclass
class Sizing:
    params: int


def solve(params, *, vocab_size=None, seq_len=None):
    return Sizing(params)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny_net"
    folder.mkdir()
    (folder / "blueprint.py").write_text(STAND_IN)
    (folder / "card.md").write_text("# Tiny Net\n")
    (tmp_path / "__pycache__").mkdir()
    return tmp_path


def test_every_folder_with_a_blueprint_is_found(root: Path) -> None:
    assert blueprints.names(root=root) == ("tiny-net",)


@pytest.mark.parametrize(
    "text", ["tiny-net", "Tiny Net", "TINYNET", "tn", "1234.56789", "arXiv:1234.56789v3", "arxiv 1234.56789"]
)
def test_a_blueprint_is_found_by_any_spelling_and_by_its_paper(root: Path, text: str) -> None:
    assert blueprints.find(text, root=root).NAME == "tiny-net"


def test_a_blueprint_is_loaded_once_and_may_define_dataclasses(root: Path) -> None:
    blueprint = blueprints.load("tiny-net", root=root)
    assert blueprints.find("tn", root=root) is blueprint
    assert blueprint.solve(5).params == 5


def test_an_unknown_name_is_refused_with_the_nearest(root: Path) -> None:
    with pytest.raises(InvalidInput, match="no blueprint for 'tiny-nets'") as caught:
        blueprints.find("tiny-nets", root=root)
    assert caught.value.hint == "did you mean tiny-net? see them all: ml-intern blueprints"
    with pytest.raises(InvalidInput) as caught:
        blueprints.load("gpt-2", root=root)
    assert caught.value.hint == "see them all: ml-intern blueprints"


def test_the_card_is_the_markdown_beside_the_blueprint(root: Path) -> None:
    assert blueprints.card("tiny-net", root=root) == "# Tiny Net\n"


@pytest.mark.parametrize("name", blueprints.names())
def test_every_shipped_blueprint_is_complete(name: str) -> None:
    blueprint = blueprints.load(name)
    assert name == blueprint.NAME
    sizing = blueprint.solve(1_000_000)
    assert blueprint.recipe(sizing).sources
    assert blueprint.tokenizers(1_000_000)[-1].hub_id is None
    assert {"_model_class", "model_type", "architectures"}.issubset(blueprint.CONFIG_EXTRAS)
    assert all(url.startswith("https://") for _, url in blueprint.SOURCES)
    for variant in blueprint.VARIANTS.values():
        assert (resource("blueprints") / name.replace("-", "_") / variant.file).is_file()


def test_no_heavy_library_is_loaded_with_the_brain_and_its_blueprints() -> None:
    program = """
import sys
from ml_intern_cli.brains.blueprint import BlueprintBrain
from ml_intern_cli.brains.protocol import Overrides
BlueprintBrain().restate("DeepSeek-V3 at 10M", overrides=Overrides())
heavy = {"torch", "transformers", "datasets", "numpy", "httpx", "huggingface_hub", "tokenizers"}
sys.exit(", ".join(heavy & set(sys.modules)) or 0)
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")
