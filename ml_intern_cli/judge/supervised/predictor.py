"""``python -m ml_intern_cli.judge.supervised.predictor REQUEST.json``: a trained model's outputs, no labels.

The process that runs the path's code. It gets rows and gives outputs; targets, verdict and answer are
not in its request, and the judge reads nothing from it but arrays of numbers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(request_file: Path) -> int:
    """Answers one request: ``{"path", "threads", "batches": [{"name", "file", "rows"}], "out"}``."""
    request = json.loads(request_file.read_bytes())
    path_dir = Path(request["path"]).resolve()
    out = Path(request["out"])
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != path_dir]

    import numpy as np
    import torch

    from ml_intern_cli.judge.artifact import Artifact, Unusable, count_parameters, load_checkpoint

    torch.set_num_threads(request["threads"])
    artifact = Artifact(path_dir)
    answer: dict[str, object] = {}
    try:
        model = artifact.build(seed=0).cpu().eval()
        answer["step"] = load_checkpoint(artifact, model)
        answer["params"] = count_parameters(model)
        answer["parameters"] = [name for name, _ in model.named_parameters()]
        answer["trainable"] = [name for name, one in model.named_parameters() if one.requires_grad]
        for batch in request["batches"]:
            inputs = torch.from_numpy(np.load(batch["file"], allow_pickle=False))
            parts = []
            with torch.inference_mode():
                for start in range(0, len(inputs), batch["rows"]):
                    with artifact.foreign_code(f"forward({batch['name']} rows)"):
                        output = model(inputs[start : start + batch["rows"]])
                        parts.append(output.reshape(len(output), -1).float())
            np.save(out / f"{batch['name']}.npy", torch.cat(parts).numpy(), allow_pickle=False)
    except Unusable as error:
        answer = {"error": str(error)}
    (out / "answer.json").write_text(json.dumps(answer), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
