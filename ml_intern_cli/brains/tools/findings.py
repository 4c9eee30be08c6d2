"""What a look-up found, in words for a language model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from ml_intern_cli.brains.tools.tool import ToolFailed
from ml_intern_cli.research.github import CodeHit, Repository
from ml_intern_cli.research.hub_search import HubDescription, HubRepo
from ml_intern_cli.research.papers import Paper
from ml_intern_cli.research.reading import PaperText

_ABSTRACT_CHARS = 700
_CARD_CHARS = 8_000
_MAX_LISTED = 80


def part(text: str, start: int, total_chars: int, *, title: str, is_cut: bool = False) -> str:
    """A part of a text, under a line that says which, and how to go on."""
    end = start + len(text)
    if not text and start:
        raise ToolFailed(f"the text ends at {total_chars:,} characters: there is nothing at {start:,}")
    more = (
        f", go on with start={end}" if end < total_chars else ", cut: the rest is too long" if is_cut else ""
    )
    return f"{title or 'no title'} · characters {start:,} to {end:,} of {total_chars:,}{more}\n\n{text}"


def list_papers(papers: Sequence[Paper]) -> str:
    """Papers, each as in ``about_paper``."""
    return "\n\n".join(map(about_paper, papers)) or "nothing found"


def about_paper(paper: Paper) -> str:
    """Title, authors, address and the beginning of the abstract."""
    authors = ", ".join(paper.authors[:4]) + (" and others" if len(paper.authors) > 4 else "")
    cited = f" · cited {paper.num_citations:,} times" if paper.num_citations is not None else ""
    abstract = shortened(paper.abstract, _ABSTRACT_CHARS) or "no abstract"
    return f"{paper.title} ({paper.year or 'no year'}) · {authors}{cited}\n{paper.url}\n{abstract}"


def contents(paper: PaperText) -> str:
    """What of a paper can be read: all of a short text, else its first words and the list of its sections."""
    lines = [f"{paper.title} · {paper.id} · {paper.source}{', cut: it is too long' if paper.is_cut else ''}"]
    lines += [f"note: {note}" for note in paper.notes]
    if paper.source == "abstract":
        return "\n".join([*lines, "only the abstract could be read:", "", paper.sections[0].text])
    abstract = next((one for one in paper.sections if "abstract" in one.title.lower()), None)
    if abstract is not None:
        lines += ["", shortened(abstract.text, 3_000)]
    lines += ["", "sections:"]
    lines += [f"{'  ' * (one.level - 1)}{one.title} ({len(one.text):,} characters)" for one in paper.sections]
    return "\n".join(lines)


def hub_line(repo: HubRepo) -> str:
    """One model or dataset, in a line."""
    facts = [
        repo.url,
        f"licence {repo.license}",
        f"{repo.downloads:,} downloads" if repo.downloads is not None else "",
        f"{repo.likes:,} likes" if repo.likes is not None else "",
        f"{repo.num_params:,} parameters" if repo.num_params is not None else "",
        f"changed {repo.modified}" if repo.modified else "",
        "gated" if repo.gated else "",
    ]
    return f"{repo.id} · {' · '.join(filter(None, facts))}"


def about_hub(found: HubDescription) -> str:
    """All that is known of one model or dataset."""
    lines = [hub_line(found.repo), f"revision {found.repo.revision}"]
    if found.repo.tags:
        lines.append(f"tags: {', '.join(found.repo.tags[:40])}")
    for split in found.splits[:_MAX_LISTED]:
        rows = "unknown" if split.num_rows is None else f"{split.num_rows:,}"
        size = "" if split.num_bytes is None else f", {split.num_bytes:,} bytes"
        lines.append(f"split {split.config}/{split.name}: {rows} rows{size}")
    for config, columns in found.columns.items():
        shown = ", ".join(f"{name} {kind}" for name, kind in list(columns.items())[:_MAX_LISTED])
        lines.append(f"columns of {config}: {shown}")
    lines += [
        f"row {number}: {shortened(json.dumps(row, ensure_ascii=False), 1_000)}"
        for number, row in enumerate(found.rows)
    ]
    lines += [f"not known: {one}" for one in found.not_known]
    lines.append(f"files: {listed(found.files, separator=', ')}")
    return "\n".join([*lines, "", shortened(found.card, _CARD_CHARS)]).rstrip()


def about_repository(repo: Repository) -> str:
    """One repository, in a line."""
    facts = [repo.url, f"{repo.num_stars:,} stars", repo.language or "", repo.license or "no licence"]
    about = shortened(repo.description, 200)
    return f"{repo.name} · {' · '.join(filter(None, facts))} · pushed {repo.pushed_at} · {about}"


def about_code(hit: CodeHit) -> str:
    """A file and the lines that fit."""
    fragments = "\n…\n".join(shortened(one, 600) for one in hit.fragments[:3])
    return f"{hit.repo} {hit.path}\n{hit.url}\n{fragments}"


def listed(lines: Iterable[str], *, separator: str = "\n", limit: int = _MAX_LISTED) -> str:
    """As many lines as fit, and how many there are beyond."""
    every = list(lines)
    more = [f"and {len(every) - limit} more"] if len(every) > limit else []
    return separator.join([*every[:limit], *more])


def shortened(text: str, num_chars: int) -> str:
    """The beginning of a text, and how long it is."""
    return text if len(text) <= num_chars else f"{text[:num_chars]}… ({len(text):,} characters in all)"
