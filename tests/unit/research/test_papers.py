from __future__ import annotations

from typing import Any

import pytest

from ml_intern_cli.access import HubAccess
from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.research.arxiv_ids import arxiv_id
from ml_intern_cli.research.failures import NotReached, Unusable
from ml_intern_cli.research.library import Library
from tests.unit.research.conftest import everything_at
from tests.unit.research.site import Response, Site, atom, data, html, redirect

ROW: dict[str, Any] = {
    "paperId": "2a8f",
    "externalIds": {"ArXiv": "2412.19437", "CorpusId": 275118643},
    "url": "https://www.semanticscholar.org/paper/2a8f",
    "title": "DeepSeek-V3 Technical Report",
    "abstract": "We present DeepSeek-V3, a strong Mixture-of-Experts\nlanguage model.",
    "year": 2024,
    "citationCount": 1234,
    "authors": [{"authorId": "1", "name": "DeepSeek-AI"}, {"authorId": None, "name": "Aixin Liu"}],
}
ELSEWHERE = {**ROW, "externalIds": {"DOI": "10.1/x"}, "title": "Elsewhere", "abstract": None, "authors": []}
FEED = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom">
  <title type="html">ArXiv Query</title>
  <entry>
    <id>http://arxiv.org/abs/2412.19437v2</id>
    <published>2024-12-27T04:03:16Z</published>
    <title>DeepSeek-V3 Technical
  Report</title>
    <summary>  We present DeepSeek-V3 &lt;671B&gt;.
</summary>
    <author><name>DeepSeek-AI</name></author>
    <author><name>Aixin Liu</name></author>
  </entry>
</feed>"""
EMPTY = '<feed xmlns="http://www.w3.org/2005/Atom"></feed>'
WRONG = """<feed xmlns="http://www.w3.org/2005/Atom"><entry>
<id>http://arxiv.org/api/errors#incorrect_id_format</id><title>Error</title></entry></feed>"""
PAPER = """<!DOCTYPE html><html><head><title>[2412.19437] DeepSeek-V3 Technical Report</title></head><body>
<nav class="ltx_page_navbar">menu</nav><article class="ltx_document">
<h1 class="ltx_title ltx_title_document">DeepSeek-V3 Technical Report</h1>
<div class="ltx_authors">DeepSeek-AI</div>
<div class="ltx_abstract"><h6 class="ltx_title">Abstract</h6><p>We present it.</p></div>
<section id="S1"><h2 class="ltx_title"><span class="ltx_tag">1 </span>Introduction</h2>
<p>Much is new.</p></section>
<section id="S2"><h2 class="ltx_title"><span class="ltx_tag">2 </span>Architecture</h2><p>Basic.</p>
<section id="S2.SS1"><h3><span class="ltx_tag">2.1 </span>Multi-Head Latent Attention</h3>
<p>Let <math alttext="d"><mi>d</mi></math> be the dimension.</p>
<table class="ltx_equation"><tr><td><math alttext="c_{t}=W h_{t}"><mi>c</mi></math></td>
<td>(1)</td></tr></table>
</section></section>
<section id="S3"><h2 class="ltx_title"><span class="ltx_tag">3 </span>Training</h2><p>With FP8.</p></section>
</article></body></html>"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2412.19437", "2412.19437"),
        (" arXiv:2412.19437v1 ", "2412.19437v1"),
        ("cs/0112017", "cs/0112017"),
        ("math.GT/0309136v2", "math.GT/0309136v2"),
        ("https://arxiv.org/abs/2412.19437", "2412.19437"),
        ("http://www.arxiv.org/pdf/2412.19437v2.pdf#page=3", "2412.19437v2"),
        ("https://arxiv.org/html/2412.19437v1/", "2412.19437v1"),
        ("https://ar5iv.labs.arxiv.org/html/cs/0112017", "cs/0112017"),
        ("doi:10.48550/arXiv.2412.19437", "2412.19437"),
    ],
)
def test_an_id_is_read_as_people_write_it(text: str, expected: str) -> None:
    assert str(arxiv_id(text)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "DeepSeek-V3", "2412.194", "2412.19437v0", "../2412.19437", "2412.19437/../x", "cs/0112017?a=b\n"],
)
def test_what_is_no_id_is_refused(text: str, library: Library, site: Site) -> None:
    with pytest.raises(InvalidInput, match="no arXiv id") as caught:
        library.read_paper(text)
    assert "2412.19437" in str(caught.value.hint)
    assert site.asked == []


def test_papers_are_found_through_semantic_scholar(library: Library, site: Site) -> None:
    site.routes["/scholar/graph/v1/paper/search"] = data({"total": 2, "offset": 0, "data": [ROW, ELSEWHERE]})
    first, second = library.search_papers("mixture-of-experts", limit=2)
    assert (first.title, first.arxiv_id, first.year) == ("DeepSeek-V3 Technical Report", "2412.19437", 2024)
    assert first.abstract == "We present DeepSeek-V3, a strong Mixture-of-Experts language model."
    assert (first.authors, first.num_citations) == (("DeepSeek-AI", "Aixin Liu"), 1234)
    assert first.url == "https://arxiv.org/abs/2412.19437"
    assert (second.url, second.arxiv_id, second.abstract) == (ROW["url"], None, "")
    asked = site.asked[0]
    assert (asked.query["query"], asked.query["limit"]) == ("mixture of experts", "2")
    assert set(asked.query["fields"].split(",")) >= {"title", "abstract", "externalIds"}
    assert library.record.was_named("https://arxiv.org/pdf/2412.19437v1")
    assert not library.record.was_reached("https://arxiv.org/abs/2412.19437")


@pytest.mark.parametrize(
    "answer",
    [
        Response(b"", 429, {"Retry-After": "60"}),
        data({"message": "Forbidden"}, 403),
        data([]),
        html("<p>log in</p>"),
    ],
    ids=["busy", "refused", "odd", "portal"],
)
def test_arxiv_is_asked_where_semantic_scholar_is_of_no_use(
    answer: Response, library: Library, site: Site
) -> None:
    site.routes |= {"/scholar/graph/v1/paper/search": answer, "/arxiv-api/api/query": atom(FEED)}
    (paper,) = library.search_papers("multi-head latent attention", limit=3)
    assert (paper.title, paper.year, paper.arxiv_id) == ("DeepSeek-V3 Technical Report", 2024, "2412.19437")
    assert (paper.abstract, paper.num_citations) == ("We present DeepSeek-V3 <671B>.", None)
    assert site.asked[-1].query["search_query"] == "all:multi-head AND all:latent AND all:attention"
    assert len(library.missed) == 1


def test_the_key_of_semantic_scholar_goes_there_and_not_to_arxiv(site: Site) -> None:
    library = Library(
        hub=HubAccess(), s2_api_key="own-key", addresses=everything_at(site), allowed=frozenset({site.place})
    )
    site.routes |= {
        "/scholar/graph/v1/paper/search": data({"message": "Forbidden"}, 401),
        "/arxiv-api/api/query": atom(EMPTY),
    }
    assert library.search_papers("anything") == ()
    assert [one.headers.get("x-api-key") for one in site.asked] == ["own-key", None]
    assert library.missed == ["127.0.0.1: does not accept S2_API_KEY (401)"]


@pytest.mark.parametrize(
    "answer",
    [
        '<!DOCTYPE x [<!ENTITY a "b">]><feed xmlns="http://www.w3.org/2005/Atom">&a;</feed>',
        "<feed",
        "<p>log in</p> and more",
    ],
)
def test_a_feed_that_is_none_is_of_no_use(answer: str, library: Library, site: Site) -> None:
    site.routes["/arxiv-api/api/query"] = atom(answer)
    with pytest.raises(Unusable, match="not the answer of arXiv"):
        library.search_papers("anything")


def test_who_cites_a_paper_and_whom_it_cites_is_found(library: Library, site: Site) -> None:
    base = "/scholar/graph/v1/paper/ARXIV:2412.19437"
    site.routes |= {
        f"{base}/citations": data({"data": [{"citingPaper": ELSEWHERE}, {"citingPaper": {"title": None}}]}),
        f"{base}/references": data({"data": None}),
    }
    assert [one.title for one in library.paper_links("2412.19437v2", "citations")] == ["Elsewhere"]
    assert library.paper_links("2412.19437", "references") == ()


def test_a_paper_is_read_from_its_html_a_section_at_a_time(library: Library, site: Site) -> None:
    site.routes["/arxiv/html/2412.19437"] = html(PAPER)
    paper = library.read_paper("arXiv:2412.19437")
    assert (paper.title, paper.source) == ("DeepSeek-V3 Technical Report", "arXiv HTML")
    assert [(one.title, one.level) for one in paper.sections] == [
        ("DeepSeek-V3 Technical Report", 1),
        ("Abstract", 6),
        ("1 Introduction", 2),
        ("2 Architecture", 2),
        ("2.1 Multi-Head Latent Attention", 3),
        ("3 Training", 2),
    ]
    architecture = (
        "Basic.\n\n### 2.1 Multi-Head Latent Attention\n\n"
        "Let $d$ be the dimension.\n\n| $c_{t}=W h_{t}$ | (1) |"
    )
    for wanted in ("2", "Architecture", "2 architecture", "archi"):
        assert paper.section(wanted).text == architecture
    assert paper.section("2.1").text.startswith("Let $d$")
    with pytest.raises(InvalidInput, match="no section 'Experiments'"):
        paper.section("Experiments")
    assert library.record.was_reached("https://arxiv.org/abs/2412.19437")
    assert site.paths() == ["/arxiv/html/2412.19437"]


def test_ar5iv_is_read_where_arxiv_has_no_html(library: Library, site: Site) -> None:
    site.routes["/ar5iv/html/cs/0112017"] = html(PAPER)
    paper = library.read_paper("cs/0112017")
    assert paper.source == "ar5iv HTML"
    assert paper.notes == (f"{site.url}/arxiv/html/cs/0112017: not found (404)",)


def test_the_abstract_is_what_is_left_of_a_paper_without_html(library: Library, site: Site) -> None:
    site.routes |= {
        "/ar5iv/html/2412.19437": redirect("/arxiv/abs/2412.19437"),  # as ar5iv does
        "/arxiv/abs/2412.19437": html("<title>[2412.19437] T</title><h1>T</h1><p>x<h2>y</h2><p>z"),
        "/arxiv-api/api/query": atom(FEED),
    }
    paper = library.read_paper("2412.19437")
    assert (paper.source, paper.title) == ("abstract", "DeepSeek-V3 Technical Report")
    assert paper.section("abstract").text == "We present DeepSeek-V3 <671B>."
    assert len(paper.notes) == 2
    assert site.asked[-1].query["id_list"] == "2412.19437"


@pytest.mark.parametrize("feed", [EMPTY, WRONG])
def test_a_paper_that_nobody_has_is_said_not_to_be_there(feed: str, library: Library, site: Site) -> None:
    site.routes["/arxiv-api/api/query"] = atom(feed)
    with pytest.raises(Unusable, match=r"no paper has the id 2412\.99999"):
        library.read_paper("2412.99999")
    assert not library.record.was_reached("https://arxiv.org/abs/2412.99999")


def test_offline_a_paper_is_not_reached(site: Site) -> None:
    library = Library(
        hub=HubAccess(offline=True), addresses=everything_at(site), allowed=frozenset({site.place})
    )
    for look in (lambda: library.read_paper("2412.19437"), lambda: library.search_papers("attention")):
        with pytest.raises(NotReached, match="offline"):
            look()
    assert (site.asked, library.reached) == ([], frozenset())
    assert library.missed == ["127.0.0.1: offline (HF_HUB_OFFLINE is set)"]
