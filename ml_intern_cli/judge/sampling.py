"""Text written by the model under judgement, sampled by the judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ml_intern_cli.judge.artifact import Artifact, judge_device
from ml_intern_cli.judge.evaluation import logits_of

if TYPE_CHECKING:
    import torch

TEMPERATURE = 0.8
TOP_K = 50
"""How small language models are usually sampled: a little sharper than they were trained.

Kept on the plain side on purpose; nucleus or greedy sampling would hide a model that has learned
little behind its few safest words.
"""


def sample(
    artifact: Artifact,
    model: Callable[[torch.Tensor], Any],
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    context: int,
    seed: int,
    progress: Callable[[str], None],
) -> list[list[int]]:
    """Continues every prompt by ``new_tokens`` tokens, all prompts in one batch.

    Rows of unequal length are filled up on the right, which a causal model cannot see.

    Args:
        artifact: Whose model it is.
        model: In eval mode.
        prompts: Token ids, at least one each.
        new_tokens: Tokens to write per prompt.
        context: Tokens that the model can look back on.
        seed: Of the draws.
        progress: Gets a line before each token, ``20/100 tokens of 19 samples``.

    Returns:
        The new tokens of each prompt.

    Raises:
        Unusable: the forward pass failed or its logits are not finite.
    """
    import torch

    device = judge_device()
    generator = torch.Generator().manual_seed(seed)
    rows = [list(prompt) for prompt in prompts]
    with torch.inference_mode():
        for written in range(new_tokens):
            progress(f"{written}/{new_tokens} tokens of {len(rows)} samples")
            views = [row[-context:] for row in rows]
            width = max(len(view) for view in views)
            input_ids = torch.tensor([view + [0] * (width - len(view)) for view in views], device=device)
            last = torch.tensor([len(view) - 1 for view in views], device=device)
            logits = logits_of(artifact, model, input_ids)[torch.arange(len(rows), device=device), last]
            top = torch.topk(logits.float().cpu() / TEMPERATURE, min(TOP_K, logits.shape[-1]))
            with artifact.foreign_code("sampling from the logits"):  # NaN logits have no probabilities
                drawn = torch.multinomial(torch.softmax(top.values, dim=-1), 1, generator=generator)
            for row, token in zip(rows, top.indices.gather(1, drawn).flatten().tolist(), strict=True):
                row.append(token)
    return [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]
