"""/metrics, read by a checker of the text format: exposition format 0.0.4, as strict as promtool."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from swarm.daemon.http import Request
from swarm.daemon.metrics import MAX_TORRENTS, Metrics
from swarm.daemon.page import routes
from tests.daemon.busy import BusySession, Shared

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|$)')
SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (-?[0-9.]+(?:e[+-]?[0-9]+)?|NaN|[+-]Inf)")
SUFFIXES = {"summary": ("", "_sum", "_count"), "counter": ("",), "gauge": ("",)}


def check_exposition(text: str) -> dict[str, int]:
    """How many series each metric has.  AssertionError for whatever Prometheus refuses, or promtool complains of."""
    assert text.endswith("\n")
    series: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
    found: dict[str, int] = {}
    helped: str | None = None
    kind = current = ""
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            _, _, helped, told = line.split(" ", 3)
            assert told.strip(), line
            continue
        if line.startswith("# TYPE "):
            _, _, current, kind = line.split(" ")
            assert NAME.fullmatch(current), line
            assert helped == current, f"no HELP before {line}"
            assert current not in found, f"{current} twice"
            assert kind in SUFFIXES, line
            assert current.endswith("_total") == (kind == "counter"), line
            found[current] = 0
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        name, inner, _ = match.groups()
        assert name in {current + suffix for suffix in SUFFIXES[kind]}, line
        labels = _labels(inner or "")
        assert (name, labels) not in series, f"twice: {line}"
        series.add((name, labels))
        found[current] += 1
    assert all(found.values())
    return found


def _labels(inner: str) -> tuple[tuple[str, str], ...]:
    pairs, place = [], 0
    while place < len(inner):
        match = LABEL.match(inner, place)
        assert match, inner
        pairs.append((match[1], match[2]))
        place = match.end()
    assert len({name for name, _ in pairs}) == len(pairs), inner
    return tuple(sorted(pairs))


@pytest.mark.parametrize(
    "text",
    [
        "# TYPE a gauge\na 1\n",
        "# HELP a A.\n# TYPE a gauge\na 1\na 1\n",
        '# HELP a A.\n# TYPE a gauge\na{b="c"} 1\na{b="c"} 2\n',
        '# HELP a A.\n# TYPE a gauge\na{b="c\\x"} 1\n',
        '# HELP a A.\n# TYPE a gauge\na{b="c"d"} 1\n',
        "# HELP a A.\n# TYPE a counter\na 1\n",
        "# HELP a A.\n# TYPE a gauge\nb 1\n",
        "# HELP a A.\n# TYPE a gauge\na 1",
        "# HELP a A.\n# TYPE a gauge\na one\n",
    ],
)
def test_the_checker_finds_what_is_wrong(text: str) -> None:
    with pytest.raises(AssertionError):
        check_exposition(text)


async def scraped(session: BusySession) -> str:
    response = await routes(session)["/metrics"](Request("GET", "/metrics", "/metrics"))
    assert response.status == 200
    assert dict(response.headers)["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert isinstance(response.body, bytes)
    return response.body.decode()


async def test_a_busy_session_tells_of_torrents_and_of_connectivity() -> None:
    text = await scraped(BusySession())
    found = check_exposition(text)
    assert found["swarm_torrents"] == 7
    assert found["swarm_torrent_received_bytes_total"] == 10
    for name in ("swarm_reachable", "swarm_nat_info", "swarm_gateway_port_open", "swarm_path_attempts_total"):
        assert found[name] >= 1
    assert 'swarm_torrents{status="download"} 3\n' in text
    assert "swarm_torrents_failed 1\n" in text


async def test_names_of_torrents_cannot_forge_series() -> None:
    session = BusySession()
    hostile = ('x"} 1\nswarm_forged 1\n', "back\\slash\\", "\u202egnp.exe", "<b>" * 4000, "\ud800 \r \x00 \u2028")
    for torrent, name in zip(session.shared, hostile, strict=False):
        torrent.name = name
    text = await scraped(session)
    check_exposition(text)
    assert not any(line.startswith("swarm_forged") for line in text.splitlines())
    assert max(map(len, text.splitlines())) < 1000


async def test_the_number_of_series_is_bounded_and_the_sums_are_whole() -> None:
    session, model = BusySession(), Shared("one of many", "seed", 5, 5)
    session.entries = {
        number: replace(model, info_hash=number.to_bytes(20, "big")) for number in range(1, MAX_TORRENTS + 501)
    }
    text = await scraped(session)
    found = check_exposition(text)
    assert found["swarm_torrent_sent_bytes_total"] == MAX_TORRENTS
    assert f'swarm_torrents{{status="seed"}} {MAX_TORRENTS + 500}\n' in text


async def test_metrics_are_only_read() -> None:
    session = BusySession()
    metrics = Metrics(lambda: session.entries, session.node.document)
    assert (await metrics.answer(Request("POST", "/metrics", "/metrics"))).status == 405
