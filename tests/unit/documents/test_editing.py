"""What people do to Markdown, and what they are told when it cannot be read."""

from __future__ import annotations

import pytest

from ml_intern_cli.documents.registry import load, parse, render
from ml_intern_cli.errors import InvalidDocument
from tests.examples import (
    BLOCKER,
    BUDGET,
    EXAMPLES,
    EXPERIMENTS,
    PLAN,
    POSTMORTEM,
    RESEARCH,
    TASK,
    VERIFY,
)


def problems(name, text):
    with pytest.raises(InvalidDocument) as caught:
        parse(text, source=name)
    return str(caught.value).splitlines()


def line_of(text, start):
    return next(number for number, line in enumerate(text.splitlines(), start=1) if line.startswith(start))


def edited(document, *replacements):
    text = render(document)
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    return text


@pytest.mark.parametrize(
    "replacements",
    [
        [("- params: 1,000,000", "* params:   1_000_000  ")],
        [("- params: 1,000,000", "+ **Params:** 1M")],
        [("- params: 1,000,000", "- `params` = 1e6")],
        [("- params: 1,000,000\n", ""), ("- mode:", "- params: 1000000\n- mode:")],
        [("## Understood", "## UNDERSTOOD:")],
        [("## Understood", "# understood")],
        [("## Understood\n", "## Understood\n\nSome words of mine.\n\n> and a quotation\n")],
        [("## Assumptions", "## My own section\n\n- anything: at all\n- params: 7\n\n## Assumptions")],
        [("## Unknowns", "### A note\n\n- params: 7\n\n## Unknowns")],
        [("## Understood\n", "## Understood\n\n<!--\n- params: 7\n-->\n")],
        [("## Understood\n", "## Understood\n\n```\n- params: 7\n## Unknowns\n```\n")],
        [("| name    | impact |", "|name|impact|")],
        [("- time_budget_s: 300", "- time budget s: 5m")],
        [("- dataset: —", "- dataset: none")],
        [("- several_paths: yes", "- several_paths: True")],
        [("- publish: folder", "- publish: Folder")],
        [("deepseek-v3\n- starts", "`deepseek-v3`\n- starts")],
    ],
)
def test_an_edit_that_means_the_same_reads_the_same(replacements):
    assert parse(edited(TASK, *replacements), source="TASK.md") == TASK


def test_sections_may_come_in_any_order():
    opening, *sections = render(PLAN).split("\n## ")
    paths = [section for section in sections if section.startswith("Path ")]
    others = [section for section in sections if not section.startswith("Path ")]
    text = "\n## ".join([opening, *reversed(others), *paths])
    assert parse(text, source="PLAN.md") == PLAN


def test_rows_and_columns_may_come_in_any_order():
    header, _, *rows = render(EXPERIMENTS).splitlines()
    turned = ["|".join(["", *reversed(line.strip("|").split("|")), ""]) for line in (header, *rows)]
    turned.insert(1, "|-|-|-|-|-|-|-|-|")
    assert parse("\n".join(turned), source="EXPERIMENTS.md") == EXPERIMENTS


def test_a_wrapped_bullet_is_one_value():
    text = edited(BLOCKER, ("- HF_TOKEN=… ml-intern", "- HF_TOKEN=…\n  ml-intern"))
    assert parse(text, source="BLOCKER.md") == BLOCKER


def test_paragraphs_of_a_text_are_kept():
    text = edited(TASK, ("Pretrain a", "First.\n\n- one\n- two\n\nPretrain a"))
    assert parse(text, source="TASK.md").restatement.startswith("First.\n\n- one\n- two\n\nPretrain a")


@pytest.mark.parametrize(
    "written",
    [
        "- the report <https://a.b/c>",
        "- the report: https://a.b/c",
        "- the report — https://a.b/c",
        "- [the report](https://a.b/c)",
    ],
)
def test_a_finding_may_name_its_url_in_several_ways(written):
    text = f"# Research\n\n## Question\n\nwhat?\n\n## Findings\n\n{written}\n"
    (finding,) = parse(text, source="RESEARCH.md").findings
    assert (finding.text, finding.url) == ("the report", "https://a.b/c")


def test_a_learning_rate_is_edited_in_the_column_of_its_path():
    text = edited(PLAN, ("| learning_rate         | 0.003  |", "| learning_rate | 1e-3 |"))
    plan = parse(text, source="PLAN.md")
    assert (plan.path("a").learning_rate, plan.path("b").learning_rate) == (0.001, 0.003)


def test_all_problems_are_named_at_once_with_their_lines():
    text = edited(
        PLAN,
        ("| 590    | 590    |", "| many   | 1.5    |"),
        ("| learning_rate         | 0.003  |", "| learning_rate         | -1     |"),
        ("| cosine | cosine |", "| cosine | cubic  |"),
        ("- vocab_size: 1,024\n", ""),
        ("- slice_s: 140", "- slice: 140"),
    )
    schedules = "must be one of: 'cosine', 'linear', 'constant'"
    assert problems("PLAN.md", text) == [
        f"PLAN.md:{line_of(text, '## Path a')}: slice_s: is missing",
        f"PLAN.md:{line_of(text, '- slice:')}: slice: unknown name; did you mean slice_s?",
        f"PLAN.md:{line_of(text, '| steps')}: steps: must be a whole number, not 'many'",
        f"PLAN.md:{line_of(text, '| steps')}: steps: must be a whole number, not '1.5'",
        f"PLAN.md:{line_of(text, '| learning_rate')}: learning_rate: must be > 0",
        f"PLAN.md:{line_of(text, '| schedule')}: schedule: {schedules}; not 'cubic'",
        f"PLAN.md:{line_of(text, '## Data')}: vocab_size: is missing",
    ]


@pytest.mark.parametrize(
    ("document", "old", "new", "problem"),
    [
        (TASK, "- params: 1,000,000", "- parms: 1M", "parms: unknown name; did you mean params?"),
        (TASK, "- params: 1,000,000", "- params 1M", "expected '- name: value', not 'params 1M'"),
        (TASK, "- params: 1,000,000", "- params: -5", "params: must be > 0"),
        (TASK, "- seed: 0", "- seed: 0\n- seed: 1", "seed: appears twice, first in line {previous}"),
        (TASK, "- seed: 0", "- seed:", "seed: is empty"),
        (TASK, "- mode: headless", "- mode: x", "mode: must be one of: 'interactive', 'headless'; not 'x'"),
        (TASK, "several_paths: yes", "several_paths: so", "several_paths: must be yes or no, not 'so'"),
        (
            TASK,
            "## Assumptions",
            "## Asumptions",
            "unknown section 'Asumptions'; did you mean 'Assumptions'?",
        ),
        (TASK, "- seed: 0", "- seed: 0\n\n## Request", "section 'Request' appears twice"),
        (
            *(TASK, "| dataset | high ", "| a | b | dataset | high "),
            "5 cells where the header has 3; a pipe inside a cell is written \\|",
        ),
        (EXPERIMENTS, "| b2 ", "| b  ", "path_id: b appears twice, first in line {previous}"),
        (
            *(EXPERIMENTS, "| b2 ", "| B2 "),
            "path_id: must be lower-case letters, digits and hyphens, starting with a letter; not 'B2'",
        ),
        (EXPERIMENTS, "| verify ", "| verfy ", "verfy: unknown name; did you mean verify?"),
        (BUDGET, "max_paths ", "max_path ", "max_path: unknown name; did you mean max_paths?"),
        (BUDGET, "gpu_min_used   = 4.723", "gpu_min_used = nan", "gpu_min_used: must be finite"),
        (BUDGET, "= 0.25 ", "= 1e999 ", "compute_cap: must be finite"),
        (VERIFY, "pass — 0.014", "maybe — 0.014", "verdict: must be one of: 'pass', 'fail'; not 'maybe'"),
        (
            VERIFY,
            "final_eval_loss ",
            "final_loss ",
            "final_loss: unknown name; did you mean final_eval_loss?",
        ),
        (
            RESEARCH,
            " <https://arxiv.org/abs/2412.19437>",
            " (arXiv)",
            "expected '- what was found <https://…>'",
        ),
        (POSTMORTEM, "- warmup_steps: 60", "- warmup_steps", "expected '- name: value', not 'warmup_steps'"),
        (PLAN, "## Path b — ", "## Path a — ", "paths: a appears twice"),
        (PLAN, '"hidden_size": 96,', '"hidden_size": ,', "config: is not JSON: Expecting value"),
        (PLAN, "| steps ", "| stops ", "stops: unknown name; did you mean steps?"),
    ],
)
def test_a_mistake_is_named_with_its_line(document, old, new, problem):
    name = f"{type(document).__name__.upper()}.md"
    text = edited(document, (old, new))
    line = render(document).split(old)[0].count("\n") + new.count("\n") + 1
    assert f"{name}:{line}: {problem.format(previous=line - 1)}" in problems(name, text)


def test_what_is_missing_is_named_with_its_section():
    assert problems("BLOCKER.md", "# Blocked\n\n- stage: publish\n\n## Why\n\nno token\n") == [
        "BLOCKER.md: what: is missing; it belongs below ## What",
        "BLOCKER.md: ways_on: is missing; it belongs below ## Ways on",
    ]


def test_a_budget_line_that_was_deleted_is_not_taken_as_its_default():
    text = "\n".join(line for line in render(BUDGET).splitlines() if "retries" not in line)
    assert problems("BUDGET.md", text) == [
        "BUDGET.md: max_retries_per_path: is missing",
        "BUDGET.md: retries_used: is missing",
    ]


def test_a_ledger_without_its_table_is_refused():
    assert problems("EXPERIMENTS.md", "nothing here\n") == ["EXPERIMENTS.md: rows: the table is missing"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_empty_file_is_refused(name):
    assert problems(name, " \n\n") == [f"{name}: is empty"]


def test_bytes_that_are_not_text_are_refused_with_their_line(tmp_path):
    (tmp_path / "TASK.md").write_bytes(b"# Task\n\n\xff\xfe")
    with pytest.raises(InvalidDocument, match=r"^TASK\.md:3: is not UTF-8 text$"):
        load(tmp_path / "TASK.md")


def test_a_file_that_is_gone_is_named_as_it_was_asked_for(tmp_path):
    with pytest.raises(InvalidDocument, match=r"^path-a/SMOKE\.md: is missing$"):
        load(tmp_path / "SMOKE.md", source="path-a/SMOKE.md")


def test_a_heading_in_a_fence_starts_no_section():
    fenced = VERIFY.samples[1].output
    assert parse(render(VERIFY), source="VERIFY.md").samples[1].output == fenced
    assert "\n## Loss sanity" in fenced
