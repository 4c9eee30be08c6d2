from __future__ import annotations

import re

import pytest

from ml_intern_cli.research.library import Library
from ml_intern_cli.research.markup import well_formed
from ml_intern_cli.research.readable import read_html
from tests.unit.research.site import Response, Site, html

ENDLESS = ["<a>", "<a ", "<!", "<!--", "</a", "<?", "</", "<a b='", "<a\n", "<![CDATA[", "<script", "<svg>"]
ENDLESS += ["<ul><li>a", "<table><tr><td>a", "<h1>a ", "<b></i>", "&#", "<p hidden>", "<a href=x>y"]
URL = "https://example.org/docs/page"


def text_of(markup: str) -> str:
    return read_html(markup, url=URL).text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<h1>One</h1><p>Two <b>bold</b>\n words<h3>Three ¶</h3>", "# One\n\nTwo bold words\n\n### Three"),
        ("<ul><li>a<li>b <ol start=3><li>c<li>d</ol></ul>e", "- a\n- b\n  3. c\n  4. d\n\ne"),
        (
            "<pre>def f():\n    # no heading\n    return 1\n</pre>",
            "```\ndef f():\n    # no heading\n    return 1\n```",
        ),
        ("use <code>x_y</code> here", "use `x_y` here"),
        ("<table><tr><th>a<th>b<tr><td><p>1</p><td>2|3</table>", "| a | b |\n| 1 | 2\\|3 |"),
        ("<!DOCTYPE html><html><p>one<?xml x?> two", "one two"),
        ("one<br>two", "one\ntwo"),
        ("a < b && c <3 &lt;tag&gt; &amp; x", "a < b && c <3 <tag> & x"),
        ("10<sup>-4</sup>, x<sub>i</sub>", "10^-4, x_i"),
        ('<math alttext="\\alpha_{t}"><mi>α</mi><annotation>twice</annotation></math>', "$\\alpha_{t}$"),
        ('<a href="/x?a=1">there</a>', "[there](https://example.org/x?a=1)"),
        (
            '<a href="#part">here</a> <a href="javascript:x()">no</a> <a href="https://[bad">bad</a>',
            "here no bad",
        ),
        ('<img alt="A curve" src=x>', "[image: A curve]"),
        ("<p>a<div>b</div>", "a\n\nb"),
    ],
)
def test_what_a_reader_sees_is_kept_in_markdown(markup: str, text: str) -> None:
    assert text_of(markup) == text


@pytest.mark.parametrize(
    "markup",
    [
        "<script>var s = '<!-- seen'; if (a<b) {}</script>",
        "<SCRIPT SRC=x>seen</SCRIPT >",
        "<style>.seen {}</style>",
        "<nav><ul><li>seen</ul></nav>",
        "<!-- seen -->",
        "<template>seen</template>",
        "<noscript>seen</noscript>",
        "<div hidden>seen<p>seen</div>",
        '<div aria-hidden="true">seen</div>',
        '<div style="color: red; DISPLAY : none">seen<div>seen</div>seen</div>',
        '<span style="visibility:hidden">seen</span>',
        '<span style="font-size:0">seen</span>',
        '<span style="opacity: 0.0;">seen</span>',
        "<svg><title>seen</title><text>seen</text></svg>",
        '<input type="hidden" value="seen">',
        "<p title='seen' data-note='seen'></p>",
        '<img alt="seen" style="display:none">',
    ],
)
def test_what_a_reader_does_not_see_is_dropped(markup: str) -> None:
    page = read_html(f"<title>T</title><p>before</p>{markup}<p>after</p>", url=URL)
    assert (page.title, page.text) == ("T", "before\n\nafter")


@pytest.mark.parametrize("style", ["opacity: 0.5", "font-size: 0.9em", "display: block", "font-size:10px"])
def test_what_is_only_small_is_kept(style: str) -> None:
    assert text_of(f'<p style="{style}">kept</p>') == "kept"


def test_characters_without_width_are_taken_out() -> None:
    assert text_of("<p>ig&#x200b;nore \U000e0041&#8238;this</p>") == "ignore this"


def test_a_title_is_that_of_the_page_or_its_first_heading() -> None:
    assert read_html("<title> A\n page </title><h1>x</h1>").title == "A page"
    assert read_html("<h2>A heading</h2>").title == "A heading"
    assert read_html("words").title == ""


@pytest.mark.parametrize("piece", ENDLESS)
def test_a_page_made_to_be_slow_holds_nothing_that_does_not_end(piece: str) -> None:
    for tail in ("", ">", "\"'>"):
        markup = piece * (200_000 // len(piece)) + tail
        passed_on = "".join(well_formed(markup))
        # The parser searches the rest of the page anew for whatever has no end, which takes hours in all.
        assert "<" not in passed_on[passed_on.rfind(">") + 1 :]
        assert not re.search("<[!?]", passed_on)
        read_html(markup, url=URL)


def test_a_page_is_read_a_part_at_a_time(library: Library, site: Site) -> None:
    site.routes["/long"] = html("<title>Long</title><p>" + "0123456789" * 10)
    first = library.read_page(f"{site.url}/long", limit=60)
    assert (first.title, first.total_chars, first.next_start) == ("Long", 100, 60)
    second = library.read_page(f"{site.url}/long", start=60, limit=60)
    assert (first.text + second.text, second.next_start) == ("0123456789" * 10, None)
    assert site.paths() == ["/long"]


def test_text_that_is_no_html_is_left_as_it_is(library: Library, site: Site) -> None:
    site.routes["/a.md"] = Response(b"# T <b>\n\n\x1b[1mbold", headers={"Content-Type": "text/markdown"})
    page = library.read_page(f"{site.url}/a.md")
    assert (page.title, page.text) == ("", "# T <b>\n\n[1mbold")
