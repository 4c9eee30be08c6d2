from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ml_intern_cli.access import HubAccess
from ml_intern_cli.hub.bundle import build_bundle
from ml_intern_cli.hub.publish import publish_hub
from tests.finished_run import make_finished_run
from tests.loopback_hub import LoopbackHub

# huggingface_hub uploads with an argument of httpx2 that is deprecated
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def load_test(folder: Path) -> str:
    """Run the download's own load test in a process of its own; returns its last line."""
    output = subprocess.run(
        [sys.executable, "load_test.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert output.returncode == 0, output.stdout + output.stderr
    return output.stdout.splitlines()[-1]


def test_a_model_published_on_a_hub_works_when_it_is_downloaded_again(tmp_path):
    run_dir = tmp_path / "a-run"
    run_dir.mkdir()
    documents = make_finished_run(run_dir)
    name = "ml-intern-a-run-20261120-2337"
    bundle_dir = tmp_path / "bundle"
    build_bundle(
        run_dir=run_dir, path_dir=run_dir / "path-a", bundle_dir=bundle_dir, name=name, host=None, **documents
    )
    created: list[str] = []
    with LoopbackHub() as hub:
        hub.fail("POST /me/.*/info/lfs/objects/batch", status=503)
        published = publish_hub(
            bundle_dir,
            slug="a-run",
            name=name,
            hub=HubAccess(endpoint=hub.url, token=hub.token),
            scratch_dir=tmp_path,
            run_load_test=load_test,
            on_created=created.append,
            report=lambda _: None,
        )
        assert hub.token not in repr(os.environ)
    assert created == [f"me/{name}"]
    params = documents["verify"].actual_params
    assert published.load_test.startswith(f"load test passed: {params:,} parameters, max |Δ logit| ")
