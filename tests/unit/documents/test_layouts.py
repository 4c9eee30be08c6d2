"""The layouts that other tools read, to the letter."""

from __future__ import annotations

import pytest

from ml_intern_cli.documents import budget, experiments, verify
from ml_intern_cli.documents.budget import Budget
from ml_intern_cli.documents.experiments import Experiments
from ml_intern_cli.documents.registry import DOCUMENTS, load, parse, render
from ml_intern_cli.errors import InvalidDocument
from tests.examples import BUDGET, EXAMPLES, EXPERIMENTS, VERIFY


def test_every_document_of_a_run_is_registered():
    assert list(DOCUMENTS) == list(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_reads_back_from_disk(name, tmp_path):
    (tmp_path / name).write_text(render(EXAMPLES[name]), encoding="utf-8")
    assert load(tmp_path / name) == EXAMPLES[name]


def test_the_budget_has_its_caps_aligned_above_the_spend():
    lines = [line.split("#")[0].rstrip() for line in budget.render(BUDGET).splitlines()]
    assert lines == [
        "max_paths            = 2",
        "max_retries_per_path = 2",
        "compute_cap          = 0.25",
        "scale_ceiling        = 1030000",
        "token_budget         = plan",
        "max_usd              = 5",
        "max_model_tokens     = 20000000",
        "max_model_calls      = 300",
        "--- spent ---",
        "paths_launched = 2",
        "gpu_min_used   = 4.723",
        "retries_used   = 0",
        "usd_used       = 0.1207",
        "--- language models, by stage ---",
        "restate     = 1 call, 2140 tokens in, 310 out, 0.0204 usd",
        "implement a = 14 calls, 98210 tokens in, 6022 out, 0.1003 usd",
    ]


def test_a_budget_from_before_language_models_is_read_with_their_default_caps():
    lines = budget.render(BUDGET).splitlines()
    earlier = [one for one in lines[: lines.index("--- language models, by stage ---")] if "usd" not in one]
    earlier = [one for one in earlier if "model" not in one]
    assert len(earlier) == 9
    read = budget.parse("\n".join(earlier), source="BUDGET.md")
    assert read == BUDGET.model_copy(update={"usd_used": 0.0, "model_use": ()})


def test_a_cap_that_got_lost_is_asked_for_and_not_taken_for_the_default():
    text = "\n".join(one for one in budget.render(BUDGET).splitlines() if not one.startswith("max_usd"))
    with pytest.raises(InvalidDocument, match="max_usd"):
        budget.parse(text, source="BUDGET.md")


def test_the_ledger_without_rows_is_the_bare_header():
    names = [
        *("path_id", "approach (one line)", "status", "final_loss"),
        *("verify", "failure_cause", "retry_of", "gpu_min"),
    ]
    header, rule = experiments.render(Experiments()).splitlines()
    assert header == f"| {' | '.join(names)} |"
    assert rule == f"|{'|'.join('-' * (len(name) + 2) for name in names)}|"
    assert experiments.parse(experiments.render(Experiments()), source="EXPERIMENTS.md") == Experiments()


def test_blank_cells_of_the_ledger_are_what_is_not_known():
    last = experiments.render(EXPERIMENTS).splitlines()[-1]
    assert [cell.strip() for cell in last.strip("|").split("|")] == [
        *("b2", "transformers", "queued", "", "", "", "b", "0"),
    ]


def test_the_verification_has_the_six_sections_keys_and_verdicts_before_its_probes():
    sections, _, probes = verify.render(VERIFY).partition("\n## Probes\n")
    assert probes.count("\n") == 4  # a heading, a rule, two probes
    assert sections == (
        "## Generation samples\n"
        'PROMPT: "Once upon a time,"\n'
        "OUTPUT: there was a little fox.\n"
        "VERDICT: pass — 5.1 ≤ 7.9\n"
        "\n"
        'PROMPT: ""\n'
        "OUTPUT:\n"
        "```text\n"
        " The dog ran.\n"
        "\n"
        "One day,\n"
        "## Loss sanity\n"
        "```\n"
        "VERDICT: pass — 5.4 ≤ 7.9\n"
        "\n"
        "VERDICT: pass — 2 of 2 samples nearer to held-out text than to shuffled words\n"
        "\n"
        "## Loss sanity\n"
        "final_train_loss = 1.3981\n"
        "final_eval_loss  = 1.412346\n"
        "plausible range  = [0.693, 6.9315]\n"
        "VERDICT: pass — 0.693 < 1.412 < 6.931\n"
        "\n"
        "## Eval tracks train\n"
        "|eval - train| = 0.0142\n"
        "VERDICT: pass — 0.014 < 0.5\n"
        "\n"
        "## Data consumption\n"
        "planned_tokens = 1208320\n"
        "consumed_tokens = 1184000  (M/N = 98.0%)\n"
        "VERDICT: pass — 98.0 % ≥ 70 %\n"
        "\n"
        "## Stderr scan\n"
        "train.stderr:3: UserWarning: slow — benign: once, at the start\n"
        "VERDICT: pass — 1 finding, explained\n"
        "\n"
        "## Param count\n"
        "target = 1000000  actual = 1003264  drift = +0.33%\n"
        "VERDICT: pass — +0.33 % within ±15 %\n"
    )


def test_a_silent_stderr_is_clean():
    text = verify.render(VERIFY.model_copy(update={"stderr_findings": ()}))
    assert "## Stderr scan\nclean\nVERDICT: pass" in text


@pytest.mark.parametrize(
    ("written", "hours"), [("2", 2.0), ("2h", 2.0), ("20m", 0.33333), ("1h30m", 1.5), ("1,000", 1000.0)]
)
def test_the_cap_may_be_written_as_a_time(written, hours):
    text = budget.render(BUDGET).replace("= 0.25 ", f"= {written} ")
    assert budget.parse(text, source="BUDGET.md").compute_cap == hours


@pytest.mark.parametrize(
    "written", ["100M", "100_000_000", "100,000,000", "1e8", "0.1B", "`100M`", "100000000"]
)
def test_counts_may_be_written_as_people_write_them(written):
    text = budget.render(BUDGET).replace("1030000", written).replace("= plan", f"= {written}")
    read = budget.parse(text, source="BUDGET.md")
    assert (read.scale_ceiling, read.token_budget) == (100_000_000, 100_000_000)


def test_a_time_that_was_given_in_minutes_stays_that_time():
    assert Budget(scale_ceiling=1, compute_cap=5 / 60).compute_cap * 60 == pytest.approx(5, rel=1e-4)


def test_the_ledger_reads_back_however_its_table_is_aligned():
    text = experiments.render(EXPERIMENTS)
    ragged = "\n".join("|".join(cell.strip() for cell in line.split("|")) for line in text.splitlines())
    assert parse(ragged, source="EXPERIMENTS.md") == EXPERIMENTS
