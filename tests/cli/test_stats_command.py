"""``swarm stats``: a saved document as tables, as JSON, for Prometheus; and files that are none."""

from __future__ import annotations

import copy
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from swarm.cli.bars import MAX_WIDTH, Cell, Page, page_for
from swarm.cli.document import MAX_DOCUMENT, as_text, parse_document_untrusted, write_document
from swarm.cli.main import main
from swarm.cli.tables import tables
from swarm.cli.units import columns
from swarm.errors import RemoteProtocolError, StorageError
from swarm.stats.document import build_document
from swarm.stats.fold import Stats
from swarm.stats.prometheus import prometheus_text
from swarm.stats.snapshot import Snapshot
from tests.cli.programs import swarm
from tests.fuzzing import fuzz_count, fuzz_seed, mutations, random_bytes_cases
from tests.stats_sample import sample_document

SAMPLE = sample_document()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "run.json"
    write_document(path, SAMPLE)
    return path


def shown(document: dict[str, Any], width: int = 80) -> str:
    return "\n".join(tables(document, Page(width)))


# -- the command ------------------------------------------------------------------------------------------------------


def test_a_saved_document_is_shown_as_plain_tables_where_there_is_no_terminal(saved: Path, tmp_path: Path) -> None:
    done = swarm(tmp_path, "stats", saved, COLUMNS="80", PYTHONIOENCODING="utf-8")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == shown(SAMPLE).splitlines()
    assert "\x1b" not in done.stdout


def test_standard_input_is_read_and_ascii_is_enough(saved: Path, tmp_path: Path) -> None:
    done = swarm(tmp_path, "stats", "-", stdin=saved.read_bytes(), PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "####" in done.stdout
    assert done.stdout.isascii()


def test_json_and_prometheus_are_those_of_the_document(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", "--json", str(saved)]) == 0
    assert json.loads(capsys.readouterr().out) == SAMPLE
    assert main(["stats", str(saved), "--prometheus"]) == 0
    assert capsys.readouterr().out == prometheus_text(SAMPLE)
    assert main(["stats", "--json", "--prometheus", str(saved)]) == 2
    assert "not allowed with" in capsys.readouterr().err


def test_without_a_file_a_daemon_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", "--rpc", f"unix:{tmp_path}/none"]) == 7
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("swarm: error: no daemon answers at unix:")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "content,why",
    [
        (b"", "it is not JSON"),
        (b"d8:announce3:urle", "it is not JSON"),
        (b"\xff\xfe\x00", "it is not JSON"),
        (b"[1]", "it says no schema"),
        (b"{}", "it says no schema"),
        (b'{"schema": 2}', "it is of another version"),
        (b'{"schema": true}', "it is of another version"),
        (b'{"schema": [1]}', "it is of another version"),
        (b'{"schema": NaN}', "it is not JSON"),
        (b'{"schema": 1' + b"0" * 5000 + b"}", "it is not JSON"),
        (b'{"schema": 1, "x": ' + b"[" * 200_000, "it is nested too deeply"),
        (b" " * (MAX_DOCUMENT + 1), "it is too large"),
        (b'{"schema": 1, "paths": []}', "paths is not an object"),
        (b'{"schema": 1, "peers": {}}', "peers is not a list"),
        (b'{"schema": 1, "nat": {"v4": {"external": [null]}}}', "nat.v4.external has null in it"),
        (b'{"schema": 1, "torrents": [{"name": 5}]}', "torrents.name is not a text"),
        (b'{"schema": 1, "reachability": {"tcp4": 1}}', "reachability.tcp4 is neither true nor false"),
        (b'{"schema": 1, "paths": {"tcp": {"in": {"attempted": -1}}}}', "paths.in.attempted is not a count"),
        (b'{"schema": 1, "sources": {"dht": 9e99}}', "sources.dht is not a count"),
        (b'{"schema": 1, "sources": {"dht": 99999999999999999999}}', "sources.dht is not a count"),
        (b'{"schema": 1, "sources": {"dht": true}}', "sources.dht is not a count"),
        (b'{"schema": 1, "node": {"uptime": 1e999}}', "node.uptime is not a number"),
        (b'{"schema": 1, "node": {"uptime": -1}}', "node.uptime is not a time"),
        (b'{"schema": 1, "node": "x"}', "node is not an object"),
    ],
)
def test_what_is_no_document_is_one_sentence(
    content: bytes, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "not\x1b[31m.json"
    path.write_bytes(content)
    assert main(["stats", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith(f"not\\x1b[31m.json is not a statistics document: {why}\n")
    assert captured.err.count("\n") == 1


def test_a_file_that_is_not_there_is_an_error_of_storage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", str(tmp_path / "missing")]) == 4
    assert "cannot read" in capsys.readouterr().err
    assert main(["stats", "a\0b"]) == 4


# -- what is shown ----------------------------------------------------------------------------------------------------


def test_the_tables_say_how_peers_were_reached_and_why_others_were_not() -> None:
    lines = shown(SAMPLE).splitlines()
    assert lines[0] == "swarm 0.1.0, up 3 h 11 min"
    for line in (
        "  mapping         endpoint-independent",
        "  not known: port step, hairpin",
        "  reached by µTP  yes",
        "  nat-pmp  udp  192.168.1.23:51413  open as  203.0.113.77:51413  for 58 min",
        "  utp out             30   10  ██▋         0.3 s    0.5 s  645 MB   450 kB",
        "    timed-out 20",
        "    endpoint-independent / address-and-port-dependent  4  of 6  █████▍",
        "  meetings  5  of 7  █████▊",
        "    busy 2",
        "  probes passed on 3, dialled back 2",
        "    acquainted 1",
        "  tracker   30  ████████████████████████",
        "  IPv4  utp  812,345 in  1.10 GB  402,113 out  22.0 MB  15 not sent",
        "  198.51.100.30:6910  utp timed-out, tcp refused    3 h 11 min ago",
        "  and 7 more; --json shows them",
    ):
        assert line in lines


@pytest.mark.parametrize("width", [40, 60, 80, MAX_WIDTH])
def test_no_line_is_wider_than_the_page(width: int) -> None:
    document = copy.deepcopy(SAMPLE)
    document["torrents"][0]["name"] = "長い名前" * 50
    document["peers"][0]["endpoint"] = "[2001:db8:1234:5678:9abc:def0:1234:5678]:51413"
    document["peers"][0]["client"] = "x" * 300
    document["nat"]["v6"] = document["nat"]["v4"] | {"external": ["[2001:db8::1]:6881"] * 9}
    document["paths"]["tcp"]["in"]["failed"] = {f"reason-{number}": 1 for number in range(40)}
    assert max(columns(line) for line in tables(document, Page(width))) <= width


def test_a_document_of_nothing_shows_who_we_are() -> None:
    document = build_document(Stats(), Snapshot(now=1.0, version="0.1.0", peer_id=b"", uptime=60.0))
    assert shown(document) == "swarm 0.1.0, up 1 min"
    assert shown(parse_document_untrusted(b'{"schema": 1}')) == "swarm "


def test_nothing_in_a_document_commands_the_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    poisoned = json.loads(_poisoned(json.dumps(SAMPLE)))
    path = tmp_path / "x"
    path.write_text(json.dumps(poisoned))
    for form in ([], ["--json"], ["--prometheus"]):
        assert main(["stats", str(path), *form]) == 0
        out = capsys.readouterr().out
        assert len(out) > 1000
        assert all(line.isprintable() for line in out.split("\n"))


def _poisoned(text: str) -> str:
    """Control characters, a direction override and half a surrogate in every text, names of reasons among them."""
    evil = "\\u001b]0;x\\u0007\\u007f\\u009b\\u202e\\ud800\\r\\n"
    for word in (
        "timed-out",
        "refused",
        "libtorrent",
        "ubuntu",
        "198.51",
        "nat-pmp",
        "0.1.0",
        "DHT nodes",
        "not-connected",
    ):
        assert word in text
        text = text.replace(word, word + evil)
    return text.replace("endpoint-independent", f"endpoint{evil}")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    page = page_for(Terminal())
    assert (page.colour, page.blocks) == (True, True)
    assert "\x1b[32m" in "\n".join(tables(SAMPLE, page))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not page_for(Terminal()).colour
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not page_for(Terminal()).colour
    assert not page_for(io.StringIO()).colour


@pytest.mark.parametrize(
    "part,whole,blocks,drawn",
    [
        (0, 10, True, "    "),
        (10, 10, True, "████"),
        (5, 10, True, "██  "),
        (1, 1000, True, "▏   "),
        (99, 10, True, "████"),
        (1, 0, True, "    "),
        (5, 10, False, "##.."),
        (1, 1000, False, "#..."),
        (0, 0, False, "...."),
    ],
)
def test_a_bar_is_as_long_as_its_share(part: int, whole: int, blocks: bool, drawn: str) -> None:
    assert Page(80, blocks=blocks).bar(part, whole, 4) == drawn


def test_colour_takes_no_columns() -> None:
    rows = [[Cell("a", paint="red"), Cell("1", right=True, paint="dim")], [Cell("long"), Cell("22")]]
    plain, painted = list(Page(80).table(rows)), list(Page(80, colour=True).table(rows))
    assert plain == ["  a      1", "  long  22"]
    assert painted == ["  \x1b[31ma\x1b[0m      \x1b[2m1\x1b[0m", "  long  22"]


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_written_document_reads_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("old")
    write_document(path, SAMPLE)
    assert parse_document_untrusted(path.read_bytes()) == SAMPLE
    assert list(tmp_path.iterdir()) == [path]


def test_a_document_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        write_document(tmp_path / "missing" / "run.json", SAMPLE)
    (tmp_path / "directory").mkdir()
    with pytest.raises(StorageError):
        write_document(tmp_path / "directory", SAMPLE)
    assert [path.name for path in tmp_path.iterdir()] == ["directory"]


def test_keys_of_later_versions_are_passed_over() -> None:
    later = copy.deepcopy(SAMPLE) | {"weather": {"rain": True}}
    later["node"]["mood"] = "good"
    assert parse_document_untrusted(as_text(later).encode()) == SAMPLE


# -- hostile files ----------------------------------------------------------------------------------------------------


def _show_if_it_parses(data: bytes) -> bool:
    try:
        document = parse_document_untrusted(data)
    except RemoteProtocolError as error:
        assert error.reason == "bad-document"
        return False
    for line in tables(document, Page(80)):
        assert line.isprintable()
        assert columns(line) <= 80
    prometheus_text(document)
    assert parse_document_untrusted(as_text(document).encode()) == document
    return True


def _seeded() -> random.Random:
    seed = fuzz_seed()
    print(f"SWARM_FUZZ_SEED={seed}")
    return random.Random(seed)


def _small() -> bytes:
    """The sample with two peers: most of a whole one would be peers."""
    return json.dumps(SAMPLE | {"peers": [SAMPLE["peers"][0], SAMPLE["peers"][-1]]}).encode()


def test_every_truncation_is_refused() -> None:
    data = _small()
    for length in range(0, len(data), 7):
        assert not _show_if_it_parses(data[:length])
    assert _show_if_it_parses(data)


def test_random_and_damaged_bytes_are_shown_or_refused() -> None:
    rng = _seeded()
    for data in random_bytes_cases(rng, 200, fuzz_count() // 4):
        _show_if_it_parses(data)
    shown = sum(_show_if_it_parses(data) for data in mutations(rng, [_small()], fuzz_count() // 4))
    assert shown, "no mutation was a document: the test shows nothing"


VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2**62,
    2**63,
    1.5,
    -0.1,
    1e300,
    "",
    "é\x1b\x9d\ud800",
    [],
    {},
    [[]],
    {"": {}},
)


def test_any_value_may_stand_anywhere() -> None:
    """Each place of the document holds each kind of value once; what is accepted can be shown."""
    shown = 0
    places = list(_places(json.loads(_small())))
    for path in places if fuzz_count() > 10_000 else _seeded().sample(places, 60):
        for value in VALUES:
            document = json.loads(_small())
            container = document
            for key in path[:-1]:
                container = container[key]
            container[path[-1]] = value
            shown += _show_if_it_parses(json.dumps(document).encode())
    assert shown


def _places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from _places(each, (*path, key))
