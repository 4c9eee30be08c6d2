"""What the path's code cannot do to the judge, and that each way of failing ends in a reason, in time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from ml_intern_cli.documents.model import Verdict
from ml_intern_cli.documents.verify import Verify
from ml_intern_cli.judge.artifact import Artifact, Unusable
from ml_intern_cli.judge.confinement import landlock
from ml_intern_cli.judge.confinement.hosted import ModelHost
from tests import judged_path

MODEL = """
import os, sys, time
from dataclasses import dataclass
import torch
from torch import nn
{at_import}

@dataclass
class TinyConfig:
    vocab_size: int = 8

class Tiny(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(config.vocab_size, config.vocab_size))
        {at_build}

    def forward(self, input_ids):
        {at_forward}
        return self.table[input_ids]
"""

needs_walls = pytest.mark.skipif(landlock.version() < 6, reason="needs Landlock 6 or later")


def write(directory: Path, *, at_import: str = "", at_build: str = "pass", at_forward: str = "pass") -> Path:
    path = directory / "path-a"
    path.mkdir(parents=True)
    text = MODEL.replace("{at_import}", at_import)
    text = text.replace("{at_build}", at_build.replace("\n", "\n        "))
    (path / "model.py").write_text(text.replace("{at_forward}", at_forward.replace("\n", "\n        ")))
    (path / "config.json").write_text(json.dumps({"_model_class": "Tiny"}))
    return path


def forward(path: Path, *, call_limit_s: float = 20.0, most_bytes: int | None = None) -> ModelHost:
    """Builds the model in a host and runs it once; returns the host, which has ended."""
    host = ModelHost(Artifact(path), call_limit_s=call_limit_s, most_bytes=most_bytes, num_threads=1)
    with host:
        host.as_trainer.build(seed=0)
        assert host.as_trainer(torch.zeros(1, 3, dtype=torch.int64)).shape == (1, 3, 8)
    return host


def left_running() -> list[psutil.Process]:
    """Processes of this one that still run."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE
    ]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ({"at_import": "sys.exit(3)"}, "importing model.py raised SystemExit: 3"),
        ({"at_import": "os._exit(3)"}, "ended the process with exit code 3 while importing model.py"),
        ({"at_import": "while True: pass"}, "did not answer within 4 s while importing model.py"),
        ({"at_build": "os.abort()"}, r"killed by signal 6 \(SIGABRT\) while building"),
        (
            {"at_build": "raise ValueError('no such thing')"},
            r"raised ValueError: no such thing \(model.py:16",
        ),
        ({"at_forward": "time.sleep(100)"}, r"did not answer within 4 s while forward\(input_ids of shape"),
        ({"at_forward": "os._exit(0)"}, r"ended the process with exit code 0 while forward"),
        ({"at_forward": "while True: print('x' * 100_000)"}, "printed more than 16 MiB"),
        ({"at_forward": "while True: os.write(1, b'x' * 100_000)"}, "printed more than 16 MiB"),
        ({"at_forward": "held = []\nwhile True: held.append(torch.empty(1 << 26))"}, "memory"),
        ({"at_forward": "return None"}, "raised TypeError"),
        ({"at_forward": "return torch.zeros(2, 2)"}, r"returned \(2, 2\), expected \(1, 3, V\)"),
        ({"at_import": "import json; json.dumps = lambda *_: 'nonsense'"}, "gave an answer that is none"),
    ],
)
def test_code_that_fails_is_a_reason_and_leaves_nothing_running(
    code: dict[str, str], reason: str, tmp_path: Path
) -> None:
    path = write(tmp_path, **code)
    started = time.monotonic()

    with pytest.raises(Unusable, match=reason):
        forward(path, call_limit_s=4.0, most_bytes=2 << 30)

    assert time.monotonic() - started < 60
    assert left_running() == []


ATTEMPTS = (
    "os.fork()",
    "__import__('subprocess').run(['true'])",
    "os.posix_spawn('/bin/true', ['true'], {})",
    "os.kill(os.getppid(), 9)",
    "os.kill(os.getpid(), 9)",
    "os.killpg(0, 9)",
    "__import__('socket').socket()",
    "os.setsid()",
    "os.setpriority(0, os.getppid(), 19)",
    "os.chmod('../data', 0)",
    "open('/etc/passwd').read()",
    "open(f'/proc/{os.getppid()}/mem').read(1)",
    "open(f'/proc/{os.getppid()}/environ').read(1)",
    "os.listdir('..')",
    "open('../data/heldout-00000.bin', 'rb')",
    "open('../data/val-00000.bin', 'rb')",
    "open('VERIFY.md')",
    "open('model.py', 'a')",
    "open('../answer.json', 'w')",
    "open('/dev/shm/x', 'w')",
    "os.unlink('config.json')",
    "os.symlink('/', '../link')",
)


@needs_walls
def test_host_may_neither_start_signal_open_nor_write_anything(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("data/heldout-00000.bin", "data/val-00000.bin", "answer.json"):
        (tmp_path / name).write_text("secret")
    path = write(
        tmp_path,
        at_import=f"ATTEMPTS = {ATTEMPTS!r}",
        at_forward="try:\n"
        "    exec(ATTEMPTS[input_ids.shape[1] - 1])\n"
        "except PermissionError:\n"
        "    return torch.ones(*input_ids.shape, 8)",
    )
    (path / "VERIFY.md").write_text("secret")

    with ModelHost(Artifact(path), call_limit_s=20, num_threads=1) as host:
        host.as_trainer.build(seed=0)
        ids = [torch.zeros(1, number + 1, dtype=torch.int64) for number in range(len(ATTEMPTS))]
        refused = [bool((host.as_trainer(one) == 1).all()) for one in ids]

    assert [attempt for attempt, is_refused in zip(ATTEMPTS, refused, strict=True) if not is_refused] == []
    assert (tmp_path / "answer.json").read_text() == "secret"
    assert not (tmp_path / "link").is_symlink()


def test_threads_may_be_started_and_scratch_may_be_written(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        at_forward="import threading, tempfile\n"
        "threading.Thread(target=lambda: None).start()\n"
        "with tempfile.NamedTemporaryFile() as file: file.write(b'1')\n"
        "_ = torch.get_num_threads(), torch.randn(300, 300) @ torch.randn(300, 300)",
    )

    forward(path)


def test_what_the_code_does_to_its_interpreter_stays_there(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        at_import="import json\n"
        "torch.nn.functional.cross_entropy = lambda *_, **__: torch.tensor(0.0)\n"
        "torch.Tensor.__add__ = lambda *_: 0\njson.loads = json.load = None if False else json.loads\n"
        "os.path.exists = lambda _: True",
    )

    forward(path)

    assert not Path("/no/such/file").exists()
    zero = torch.zeros(1, dtype=torch.int64)
    assert float(torch.nn.functional.cross_entropy(torch.zeros(1, 4), zero)) > 1
    assert int(torch.tensor(1) + 1) == 2


def test_error_in_del_is_no_harm(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        at_import="class Bad:\n    def __del__(self):\n        raise RuntimeError('in __del__')",
        at_forward="Bad()",
    )

    forward(path)


def test_host_ends_when_the_judge_is_killed(tmp_path: Path) -> None:
    path = write(tmp_path, at_import="while True: pass")
    code = (
        "import sys; from pathlib import Path\n"
        "from ml_intern_cli.judge.artifact import Artifact\n"
        "from ml_intern_cli.judge.confinement.hosted import ModelHost\n"
        "with ModelHost(Artifact(Path(sys.argv[1])), num_threads=1) as host:\n"
        "    print(host.process.pid, flush=True)\n"
        "    host.as_trainer.build(seed=0)\n"
    )
    judge = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert judge.stdout is not None
    pid = int(judge.stdout.readline())
    time.sleep(3)

    judge.kill()
    judge.wait()
    judge.stdout.close()

    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and psutil.pid_exists(pid):
        time.sleep(0.05)
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        pytest.param("while True: pass", "did not answer within", marks=pytest.mark.slow),
        ("import os; os._exit(0)", "ended the process with exit code 0"),
        ("import os; os.kill(os.getppid(), 9)", "raised PermissionError"),
    ],
)
def test_verdict_is_reached_whatever_the_code_does(
    code: str, reason: str, trained, data: Path, tmp_path: Path
) -> None:
    path = judged_path.copy_run(trained.path, tmp_path)
    source = (path / "model.py").read_text()
    head = "        x = self.embed_tokens(input_ids)"
    (path / "model.py").write_text(source.replace(head, f"        {code}\n{head}"))
    out = tmp_path / "verify.json"

    done = subprocess.run(
        [
            sys.executable, "-m", "ml_intern_cli.judge", "verify", "--path", path, "--data", data,
            "--target-params", str(trained.params), "--planned-tokens", "307200", "--seed", "0",
            "--num-threads", "1", "--limit-s", "40", "--out", out,
        ],
        check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    verdict = Verify.model_validate_json(out.read_text())
    assert reason in verdict.generation.reason
    assert reason in verdict.failures["trained-causality"]
    assert verdict.data.verdict is Verdict.PASS
    assert left_running() == []


def test_two_hosts_look_different_from_within_and_compute_the_same(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        at_forward="told = ('ml_intern_cli' in sys.modules) + 2 * ('judge' in sys.orig_argv[-2])\n"
        "self.table.data.fill_(told)",
    )

    with ModelHost(Artifact(path), num_threads=1) as host:
        ids = torch.zeros(1, 2, dtype=torch.int64)
        seen = []
        for model in (host.as_trainer, host.as_judge):
            model.build(seed=0)
            seen.append(float(model(ids)[0, 0, 0]))

    assert seen == [0.0, 3.0]


def test_weights_go_there_and_back(tmp_path: Path) -> None:
    path = write(tmp_path)
    table = torch.randn(8, 8)

    with ModelHost(Artifact(path), num_threads=1) as host:
        host.as_trainer.build(seed=0)
        host.as_trainer.load({"table": table})
        back = host.as_trainer.get()
        logits = host.as_trainer(torch.tensor([[3, 5]]))

    assert torch.equal(back["table"], table)
    assert torch.equal(logits[0], table[[3, 5]])
    assert os.environ.get("TORCHDYNAMO_DISABLE") is None
