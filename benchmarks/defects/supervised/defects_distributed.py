"""Defects of two gloo processes: replicas that drift, rows that are not shared out, figures of one half."""

from __future__ import annotations

from benchmarks.defects.case import Defect, Edit, Family, Harm
from benchmarks.defects.supervised import claims
from benchmarks.defects.supervised.names import PARALLEL, TRAINCHECK

_BACKWARD = "        loss.backward()\n"
_REPLICA = "    replica = DistributedDataParallel(model)\n"
_UPDATE = "        optimizer.step()\n"
_SHARE = "        inputs, targets = (part[rows[rank::WORLD_SIZE]] for part in train_rows)\n"
_COMPONENTS = ("replica*", "DistributedDataParallel*", "rank*", "process*", "gradient*", "*.weight", "*.bias")
_AFTER_REPLICA = _REPLICA + "    if rank == 1:\n        with torch.no_grad():\n"


def _defect(name: str, what: str, source: str, old: str, new: str, *, traincheck: str = "") -> Defect:
    """One edit of train.py that makes the weights other than the mean gradient gives."""
    return Defect(
        name=name,
        family=Family.DISTRIBUTED,
        what=what,
        source=source,
        programs=PARALLEL,
        edits=(Edit("train.py", old, new),),
        component=_COMPONENTS,
        also=(Family.TRAINING,),
        harm=Harm.CLAIM,
        claim=claims.replicas_equal,
        traincheck=traincheck,
    )


DEFECTS = (
    _defect(
        "replicas-never-meet",
        "gradients are not averaged: two models are trained, each on half of the rows, and one is kept",
        f"pytorch/pytorch 104336, in {TRAINCHECK}",
        _REPLICA,
        "    replica = model\n",
        traincheck="pytorch-104336",
    ),
    _defect(
        "replicas-start-apart",
        "after the replicas were made equal one process draws its weights again",
        f"x-jxmnop (weights of the processes differ), in {TRAINCHECK}",
        _REPLICA,
        _AFTER_REPLICA + "            for parameter in model.parameters():\n"
        "                parameter.add_(0.3 * torch.randn_like(parameter))\n",
        traincheck="x-jxmnop",
    ),
    _defect(
        "one-process-skips-updates",
        "the second process updates every second time",
        f"pytorch/pytorch 115607 (updates stop on one process), in {TRAINCHECK}",
        _UPDATE,
        "        if rank == 0 or step % 2 == 0:\n            optimizer.step()\n",
    ),
    _defect(
        "kept-process-lags-behind",
        "the process that writes the checkpoint updates every fourth time",
        f"replicas drift; pytorch/pytorch 104336, in {TRAINCHECK}",
        _UPDATE,
        "        if rank == 1 or step % 4 == 0:\n            optimizer.step()\n",
    ),
    _defect(
        "communication-lost",
        "a hook hands each process its own gradients back",
        f"pytorch/pytorch 84803 (gradients not exchanged), in {TRAINCHECK}",
        _REPLICA,
        _REPLICA + "\n"
        "    def keep(state, bucket):\n"
        "        future = torch.futures.Future()\n"
        "        future.set_result(bucket.buffer())\n"
        "        return future\n\n"
        "    replica.register_comm_hook(None, keep)\n",
        traincheck="pytorch-84803",
    ),
    _defect(
        "communication-lost-at-times",
        "every third exchange of gradients is left out",
        f"pytorch/pytorch 96600 (communication loss), in {TRAINCHECK}",
        "loss_of(replica(inputs), targets, config)",
        "loss_of((model if step % 3 == 0 else replica)(inputs), targets, config)",
        traincheck="pytorch-96600",
    ),
    _defect(
        "head-left-out-of-the-exchange",
        "the head's gradients are excluded from the averaging",
        f"parameters ignored by DistributedDataParallel; pytorch/pytorch 104336, in {TRAINCHECK}",
        _REPLICA,
        "    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(\n"
        '        model, ["head.weight", "head.bias"]\n'
        "    )\n" + _REPLICA,
    ),
    _defect(
        "half-of-the-gradient",
        "the second process multiplies its loss by zero: half of the rows teach nothing",
        "a mask for the last incomplete batch that is always on",
        _BACKWARD,
        "        (loss * (rank == 0)).backward()\n",
    ),
    _defect(
        "rates-of-their-own",
        "the learning rate is multiplied by the number of the process plus one",
        "learning rate scaled by rank instead of by the number of processes",
        '            group["lr"] = learning_rate\n',
        '            group["lr"] = learning_rate * (1 + 9 * rank)\n',
    ),
    _defect(
        "rows-not-shared-out",
        "both processes take the same half of every batch: the other half is never read",
        f"data not sharded (the same seed and rank everywhere); {TRAINCHECK}",
        _SHARE,
        "        inputs, targets = (part[rows[::WORLD_SIZE]] for part in train_rows)\n",
    ),
    Defect(
        name="rows-drawn-apart",
        family=Family.DISTRIBUTED,
        what="each process draws an order of its own, so rows are read twice or not at all in an epoch",
        source=f"worker seeds (Stack Overflow 67180955), in {TRAINCHECK}",
        programs=PARALLEL,
        edits=(
            Edit(
                "train.py",
                'len(train_rows[1]), config["seed"])',
                'len(train_rows[1]), config["seed"] + rank)',
            ),
        ),
        component=("rows_after*", "rank*", "process*", "train-inputs.npy"),
        also=(Family.DATA, Family.TRAINING),
        harm=Harm.CLAIM,
        claim=claims.replicas_equal,
    ),
    Defect(
        name="metric-of-one-process",
        family=Family.DISTRIBUTED,
        what="the eval loss and the accuracy are those of the first process's half of val",
        source="metrics not reduced over processes (Lightning-AI/pytorch-lightning, sync_dist)",
        programs=PARALLEL,
        edits=(
            Edit(
                "train.py",
                "(mean_over_processes(value, len(targets)) for value in (loss, correct))",
                "(value.item() for value in (loss, correct))",
            ),
        ),
        component=("eval.log", "best.json", "*best.json", "metrics.jsonl", "evaluate*"),
        also=(Family.REPORTING,),
        harm=Harm.CLAIM,
        claim=claims.best_evaluation,
    ),
    Defect(
        name="loss-of-one-process",
        family=Family.DISTRIBUTED,
        what="train.log holds the loss of the first process's half of each batch",
        source="metrics not reduced over processes (Lightning-AI/pytorch-lightning, sync_dist)",
        programs=PARALLEL,
        edits=(
            Edit(
                "train.py",
                "        mean_loss = mean_over_processes(loss.detach(), len(targets))\n",
                "        mean_loss = loss.item()\n",
            ),
        ),
        component=("train.log", "metrics.jsonl", "mean_over_processes*"),
        also=(Family.REPORTING,),
        harm=Harm.CLAIM,
        claim=claims.logged_losses,
    ),
    Defect(
        name="accuracy-of-both-added",
        family=Family.DISTRIBUTED,
        what="accuracies of the processes are added, and cut off at 1",
        source="wrong reduction (SUM for a mean)",
        programs=PARALLEL,
        edits=(
            Edit(
                "train.py",
                '"accuracy": accuracy}',
                '"accuracy": min(1.0, WORLD_SIZE * accuracy)}',
            ),
        ),
        component=("eval.log", "best.json", "*best.json", "metrics.jsonl", "evaluate*"),
        also=(Family.REPORTING,),
        harm=Harm.CLAIM,
        claim=claims.best_evaluation,
    ),
    Defect(
        name="gradients-added-not-averaged",
        family=Family.DISTRIBUTED,
        what="gradients are the sum over the processes; clipping and Adam take the factor out again",
        source="sum in place of mean in a hand-written all-reduce",
        programs=PARALLEL,
        edits=(Edit("train.py", _BACKWARD, "        (loss * WORLD_SIZE).backward()\n"),),
        component=_COMPONENTS,
    ),
)
