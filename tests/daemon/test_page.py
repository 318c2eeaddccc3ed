"""The page's files and headers, and what is told of the session: nothing from strangers that is not text."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from swarm.daemon.http import Request, Response
from swarm.daemon.page import FILES, routes
from swarm.daemon.view import MAX_CONNECTED, MAX_NAME, MAX_UNREACHED, Rates, View, coarse, shown
from swarm.daemon.words import CAUSE_WORDS, REASON_WORDS, cause_of, verdict
from tests.daemon.busy import BusySession, Shared
from tests.stats_sample import sample_document


async def get(path: str, method: str = "GET", **headers: str) -> Response:
    return await routes(BusySession())[path](Request(method, path, path, headers=headers))


@pytest.mark.parametrize("path", FILES)
async def test_each_file_comes_with_the_policy_and_may_not_be_framed(path: str) -> None:
    response = await get(path)
    assert response.status == 200
    assert isinstance(response.body, bytes) and len(response.body) > 100
    headers = dict(response.headers)
    policy = dict(directive.partition(" ")[::2] for directive in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
    assert policy["require-trusted-types-for"] == "'script'"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Content-Type"] == FILES[path][1]


@pytest.mark.parametrize("path", FILES)
async def test_what_the_browser_has_is_not_sent_again(path: str) -> None:
    tag = dict((await get(path)).headers)["ETag"]
    for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        response = await get(path, **{"if-none-match": given})
        assert (response.status, response.body) == (304, b"")
    assert (await get(path, **{"if-none-match": '"other"'})).status == 200


async def test_nothing_of_it_changes_anything() -> None:
    for path in ("/", "/page.js", "/events", "/metrics"):
        for method in ("POST", "PUT", "DELETE"):
            assert (await get(path, method)).status == 405


def text_of(name: str) -> str:
    return files("swarm.daemon").joinpath("page", name).read_text(encoding="utf-8")


def test_the_page_loads_nothing_from_elsewhere_and_has_nothing_inline() -> None:
    page = text_of("index.html")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", page)
    assert not re.search(r"(src|href)=\"(https?:)?//", page)
    assert "url(" not in text_of("style.css") and "@import" not in text_of("style.css")
    script = text_of("page.js")
    for maker_of_html in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "DOMParser"):
        assert maker_of_html not in script


def test_all_elements_that_the_script_looks_for_are_there() -> None:
    page, script = text_of("index.html"), text_of("page.js")
    for name in re.findall(r'byId\("([a-z0-9-]+)"\)', script):
        assert f'id="{name}"' in page, name


# -- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failures,cause",
    [
        ({"utp": "timed-out", "tcp": "timed-out"}, "silent"),
        ({"utp": "timed-out", "tcp": "refused"}, "nobody-there"),
        ({"utp": "timed-out", "tcp": "timed-out", "utp-punched": "no-introducer"}, "no-introducer"),
        ({"utp": "timed-out", "utp-punched": "timed-out", "tcp-punched": "no-introducer"}, "punch"),
        ({"utp": "timed-out", "predicted": "hopeless"}, "hopeless"),
        ({"utp": "closed", "tcp": "wrong-torrent"}, "disagree"),
        ({"utp": "unreachable", "tcp": "unreachable"}, "no-way"),
        ({"utp": "timed-out", "relayed": "refused", "turn": "turn-off"}, "silent"),
        ({"tcp": "duplicate"}, None),
        ({}, None),
        ({"tcp": "errno-99"}, "silent"),
    ],
)
def test_the_most_telling_reason_is_the_cause(failures: dict[str, str], cause: str | None) -> None:
    assert cause_of(failures) == cause


def test_words_are_parts_of_sentences() -> None:
    for reason in REASON_WORDS.values():
        assert not reason.endswith(".") and not reason[0].isupper()
    for title, meaning in CAUSE_WORDS.values():
        assert title[0].isupper() and meaning.endswith(".")


def test_the_verdict_says_what_is_closed_and_what_nobody_has_tested() -> None:
    document = sample_document()
    assert verdict(document).title == "Peers reach you, but not by TCP"
    document["reachability"] = dict.fromkeys(document["reachability"])
    assert verdict(document).title == "Your port is open; no peer has tested it yet"
    document["gateway"] = []
    assert verdict(document).title == "Not known yet whether peers reach you"
    document["reachability"]["tcp4"] = False
    assert verdict(document).tone == "bad"
    document["reachability"] = {"tcp4": True, "utp4": True, "tcp6": None, "utp6": None}
    assert verdict(document).title == "Peers reach you by µTP and TCP"
    document["node"]["listen"] = []
    assert verdict(document).title == "Offline"


# -- what is told -----------------------------------------------------------------------------------------------------


def test_numbers_are_told_to_four_digits() -> None:
    assert [coarse(number) for number in (0, 7, 1234, 12345, 99_999_999, 1.9)] == [0, 7, 1234, 12340, 99_990_000, 1]


def test_names_are_short_and_hide_nothing() -> None:
    assert len(shown("x" * 10_000, MAX_NAME)) == MAX_NAME
    assert shown("a\u202egnp.exe", 99) == "a\\u202egnp.exe"
    assert shown("\x00\n\u2028\ud800", 99) == "\\x00\\n\\u2028\\ud800"
    assert shown("می‌خواهم 👩‍🚀", 99) == "می‌خواهم 👩‍🚀"


def test_the_rate_of_a_torrent_that_has_just_come_is_told_in_the_next_second() -> None:
    rates, old, new = Rates(), Shared("old", "seed", 0, 0), Shared("new", "download", 0, 0)
    for now in range(4):
        old.uploaded += 1000
        rates.sample(float(now), {1: old})
    for now in (4, 5):
        new.downloaded += 500
        rates.sample(float(now), {1: old, 2: new})
        assert rates.of(2) == ((0, 0) if now == 4 else (500, 0))
    assert rates.together() == (500, 600)


async def test_peers_told_of_are_bounded_and_the_totals_count_all() -> None:
    session = BusySession()
    document = session.node.document()
    missed = next(peer for peer in document["peers"] if not peer["connected"])
    connected = next(peer for peer in document["peers"] if peer["connected"])
    document["peers"] = [
        {**model, "endpoint": f"192.0.2.{number % 250}:{number}"}
        for model in (connected, missed)
        for number in range(900)
    ]
    state = View(lambda: session.entries, lambda: document, tuple, lambda: 1e9).look()
    assert len(state["peers"]) == MAX_CONNECTED + MAX_UNREACHED
    totals = state["now"]["totals"]
    assert (totals["connected"], totals["missed"]) == (900, 900)
