from __future__ import annotations

import threading

import pytest

from ml_intern_cli.research.record import Record, comparable


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ("https://arxiv.org/abs/2412.19437", "http://www.arxiv.org/pdf/2412.19437v2.pdf"),
        ("https://arxiv.org/html/2412.19437v1", "https://ar5iv.labs.arxiv.org/html/2412.19437"),
        ("https://arxiv.org/abs/cs/0112017", "https://arxiv.org/pdf/cs/0112017v1"),
        ("https://example.org/a%20b/", "https://www.example.org:443/a b#part"),
        ("https://example.org", "https://EXAMPLE.org/"),
    ],
)
def test_two_ways_to_write_one_page_are_the_same(one: str, same: str) -> None:
    record = Record()
    record.reach(one)
    assert record.was_reached(same)


@pytest.mark.parametrize(
    "another",
    [
        "https://arxiv.org/abs/2412.19438",
        "https://example.org/A",
        "https://example.org/a?page=2",
        "https://example.org:8443/a",
        "https://example.org.evil.example/a",
        "https://[broken",
        "",
    ],
)
def test_another_page_was_not_reached(another: str) -> None:
    record = Record()
    record.reach("https://example.org/a", "https://arxiv.org/abs/2412.19437")
    assert not record.was_reached(another)


def test_a_page_that_was_only_named_was_not_reached() -> None:
    record = Record()
    record.name(["https://example.org/a"])
    assert record.was_named("http://example.org/a/")
    assert not record.was_reached("https://example.org/a")


def test_what_was_missed_stands_once_and_in_order() -> None:
    record = Record()
    for line in ("b: no network", "a: no network", "b: no network"):
        record.miss(line)
    assert record.missed == ["b: no network", "a: no network"]


def test_a_record_can_be_kept_from_several_threads() -> None:
    record = Record()

    def write(number: int) -> None:
        for step in range(200):
            record.reach(f"https://example.org/{number}/{step}")
            record.was_reached("https://example.org/")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(record.reached) == 800


def test_what_is_no_address_compares_as_it_is() -> None:
    assert comparable("https://[broken") == "https://[broken"
