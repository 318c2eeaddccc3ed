"""--stats FILE and SIGUSR1 of download and seed, as programs over loopback; and the line at the end of a download."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm.cli.account import connectivity
from swarm.cli.describe import describe
from swarm.cli.document import as_text, parse_document_untrusted, write_document
from swarm.endpoint import Endpoint
from swarm.errors import StorageError
from swarm.events import (
    Event,
    PortMapped,
    PortMappingFailed,
    PortMappingLost,
    PunchAsked,
    PunchConnected,
    PunchFailed,
    RendezvousRefused,
    RendezvousRelayed,
)
from tests.cli.programs import LIMIT, ROOT, SAMPLE, environment, events, running, seeding, swarm
from tests.stats_sample import sample_document

LOOPBACK = ("--bind", "127.0.0.1", "-p", 0)
SLOWLY = ("-d", "500k")
SIZE = 1_034_000
"""About the bytes of the sample."""


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with seeding(tmp_path_factory.mktemp("seed"), SAMPLE, ROOT / "torrents") as address:
        yield address


@pytest.fixture
def nobody() -> Iterator[str]:
    """HOST:PORT at which TCP is refused, and stays so."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    assert parse_document_untrusted(path.read_bytes()) == document  # nothing that its readers would drop or add
    return document


def await_piece(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if '"piece"' in line:
            return


# -- the file ---------------------------------------------------------------------------------------------------------


def test_at_the_end_of_a_download_the_file_says_how_it_went(seed: str, nobody: str, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    peers = ("--peer", seed, "--peer", nobody, "--no-pex", "--no-dht")
    done = swarm(tmp_path, "download", SAMPLE, "-o", tmp_path, *peers, "--stats", file, "-d", "2M", *LOOPBACK)
    assert done.returncode == 0, done.stderr
    document = read(file)
    (shared,) = document["torrents"]
    assert shared["done"] == shared["total"] == document["paths"]["tcp"]["out"]["bytes_down"] > SIZE * 0.9
    by_endpoint = {peer["endpoint"]: peer for peer in document["peers"]}
    assert by_endpoint[seed]["connected"]
    assert by_endpoint[seed]["bytes_down"] == shared["done"]
    assert by_endpoint[seed]["sources"] == ["manual"]
    assert by_endpoint[nobody]["failures"]["tcp"] == "refused"
    assert document["paths"]["tcp"]["out"]["failed"] == {"refused": 1}
    assert {each["transport"] for each in document["node"]["listen"]} == {"tcp", "udp"}
    assert document["sockets"]["v4"]["receive_buffer"] > 0
    assert list(tmp_path.glob("*.part")) == []


def test_swarm_stats_shows_what_a_run_has_written(seed: str, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    swarm(tmp_path, "download", SAMPLE, "-o", tmp_path, "--peer", seed, "--stats", file, *LOOPBACK)
    shown = swarm(tmp_path, "stats", file)
    assert shown.returncode == 0
    assert "tcp out" in shown.stdout
    assert "swarm-sample" in shown.stdout
    assert seed in shown.stdout
    assert json.loads(swarm(tmp_path, "stats", "--json", file).stdout) == read(file)
    assert f'swarm_torrent_done_bytes{{info_hash="{read(file)["torrents"][0]["info_hash"]}"' in (
        swarm(tmp_path, "stats", "--prometheus", file).stdout
    )


def test_a_run_that_is_given_up_has_its_file_too(nobody: str, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    options = ("--peer", nobody, "--timeout", "0.5", "--stats", file)
    done = swarm(tmp_path, "download", SAMPLE, "-o", tmp_path / "new", *options, *LOOPBACK)
    assert done.returncode == 5
    document = read(file)
    assert [peer["failures"]["tcp"] for peer in document["peers"]] == ["refused"]
    assert document["torrents"][0]["done"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_writes_how_it_stood_before_it_left(
    seed: str, tmp_path: Path, number: signal.Signals
) -> None:
    file = tmp_path / "run.json"
    options = ("--peer", seed, "--json", *SLOWLY, "--stats", file)
    with running(tmp_path, "download", SAMPLE, "-o", tmp_path, *options, *LOOPBACK) as process:
        await_piece(process)
        process.send_signal(number)
        process.communicate(timeout=5)
    assert process.returncode == 128 + number
    document = read(file)
    assert 0 < document["torrents"][0]["done"] < document["torrents"][0]["total"]
    (peer,) = [peer for peer in document["peers"] if peer["endpoint"] == seed]
    assert peer["connected"]
    assert document["sockets"]["v4"] is not None
    assert document["node"]["listen"]


def test_asked_by_a_signal_a_run_writes_and_goes_on(seed: str, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    options = ("--peer", seed, "--json", *SLOWLY, "--stats", file)
    with running(tmp_path, "download", SAMPLE, "-o", tmp_path, *options, *LOOPBACK) as process:
        await_piece(process)
        assert not file.exists()
        process.send_signal(signal.SIGUSR1)
        until(file.exists)
        first = read(file)
        assert first["torrents"][0]["done"] < first["torrents"][0]["total"]
        file.unlink()
        process.send_signal(signal.SIGUSR1)
        until(file.exists)
        assert read(file)["node"]["uptime"] > first["node"]["uptime"]
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert events(output)[-1]["event"] == "done"
    last = read(file)
    assert last["torrents"][0]["done"] == last["torrents"][0]["total"]


def test_a_seed_writes_what_it_gave(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    options = ("--stats", file, "--json", *LOOPBACK)
    with running(tmp_path, "seed", SAMPLE, "-o", ROOT / "torrents", *options) as process:
        assert process.stdout is not None
        lines = (json.loads(line) for line in process.stdout)
        port = next(line["port"] for line in lines if line["event"] == "start")
        next(line for line in lines if line["event"] == "checked")
        peer = ("--peer", f"127.0.0.1:{port}")
        assert swarm(tmp_path / "b", "download", SAMPLE, "-o", tmp_path / "b", *peer, *LOOPBACK).returncode == 0
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=5)
    document = read(file)
    (shared,) = document["torrents"]
    assert shared["done"] == shared["total"] == document["paths"]["tcp"]["in"]["bytes_up"]
    assert document["sources"]["incoming"] == 1


@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_a_file_that_cannot_be_written_is_one_sentence_and_costs_nothing(
    seed: str, tmp_path: Path, quiet: tuple[str, ...]
) -> None:
    file = tmp_path / "missing" / "run.json"
    done = swarm(tmp_path, "download", SAMPLE, "-o", tmp_path, "--peer", seed, "--stats", file, *quiet, *LOOPBACK)
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "swarm:" in line] == [
        f"swarm: cannot write {file}: No such file or directory"
    ]
    told = swarm(tmp_path, "download", SAMPLE, "-o", tmp_path, "--stats", file, "--json", *LOOPBACK)
    assert told.returncode == 0
    assert events(told.stdout)[-1]["event"] == "warning"


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_standard_output_gets_the_document_behind_what_was_printed(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-m", "swarm", "download", SAMPLE, "-o", ROOT / "torrents", "--stats", name, "--json"]
    with open(tmp_path / "redirected", "w+") as redirected:
        redirected.write("before\n")
        redirected.flush()
        words = [*map(str, command), "-p", "0"]
        done = subprocess.run(words, stdout=redirected, env=environment(tmp_path), timeout=LIMIT)
        assert done.returncode == 0
    first, *lines = (tmp_path / "redirected").read_text().splitlines(keepends=True)
    assert first == "before\n"
    start = lines.index("{\n")
    assert json.loads(lines[start - 1])["event"] == "done"
    assert json.loads("".join(lines[start:]))["schema"] == 1


def test_a_link_stays_and_the_file_behind_it_is_replaced(tmp_path: Path) -> None:
    behind, link = tmp_path / "behind.json", tmp_path / "link.json"
    behind.write_text("old")
    link.symlink_to(behind)
    write_document(link, sample_document())
    assert link.is_symlink()
    assert parse_document_untrusted(behind.read_bytes()) == sample_document()


def test_a_pipe_is_written_to_and_one_that_nobody_reads_keeps_nobody(tmp_path: Path) -> None:
    pipe, document = tmp_path / "pipe", sample_document()
    os.mkfifo(pipe)
    with pytest.raises(StorageError, match="cannot write"):
        write_document(pipe, document)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    until(lambda: _written(pipe, document))
    reader.join(10)
    assert got == [as_text(document).encode() + b"\n"]
    assert pipe.is_fifo()


def _written(pipe: Path, document: dict[str, Any]) -> bool:
    """False while the reader has not come yet."""
    try:
        write_document(pipe, document)
    except StorageError:
        return False
    return True


# -- the terminal -----------------------------------------------------------------------------------------------------


def test_asked_without_a_file_a_run_shows_its_tables_on_standard_error(seed: str, tmp_path: Path) -> None:
    options = ("--peer", seed, "--json", *SLOWLY)
    with running(tmp_path, "download", SAMPLE, "-o", tmp_path, *options, *LOOPBACK) as process:
        await_piece(process)
        process.send_signal(signal.SIGUSR1)
        assert process.stderr is not None
        for line in process.stderr:
            if "Torrents" in line:
                break
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert all(events(output))


def test_asked_without_a_file_a_quiet_seed_answers_too(tmp_path: Path) -> None:
    with running(tmp_path, "seed", SAMPLE, "-o", ROOT / "torrents", "-q", *LOOPBACK) as process:
        assert process.stderr is not None
        until(lambda: _catches(process, signal.SIGUSR1))
        process.send_signal(signal.SIGUSR1)  # asked before the node is open, it answers then
        for line in process.stderr:
            if "listens on" in line:
                break
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=5)
    assert process.returncode == 128 + signal.SIGTERM


def _catches(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether the program has a handler for it yet; before that the signal would end it."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (caught,) = [line for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_verbose_ends_with_the_tables_and_one_line_says_who_was_missed(seed: str, nobody: str, tmp_path: Path) -> None:
    options = (
        "--peer",
        seed,
        "--peer",
        nobody,
        "-d",
        "2M",
        "--no-pex",
        "--no-dht",
    )  # the seed and its DHT know peers of other tests
    done = swarm(tmp_path, "download", SAMPLE, "-o", tmp_path, "-v", *options, *LOOPBACK)
    assert done.returncode == 0
    sentence = "1 peer: 1 direct (TCP); 1 not reached: 1 refused"
    lines = done.stderr.splitlines()
    assert sentence in lines
    assert ": complete, " in lines[lines.index(sentence) - 1]
    assert "Ways to peers" in lines[lines.index(sentence) :]
    plain = swarm(
        tmp_path / "b", "download", SAMPLE, "-o", tmp_path / "b", "--peer", seed, "--no-pex", "--no-dht", *LOOPBACK
    )
    assert len(plain.stderr.splitlines()) == 2  # what is fetched, and that it is: nothing more is worth a line


def peers(*rows: tuple[str | None, dict[str, str]]) -> dict[str, Any]:
    return {"peers": [{"path": path, "failures": failures} for path, failures in rows]}


@pytest.mark.parametrize(
    "document,line",
    [
        (peers(), None),
        (peers(("tcp", {}), ("utp", {"tcp": "refused"})), None),
        (peers((None, {"tcp": "self"}), (None, {"utp": "timed-out", "tcp": "duplicate"}), ("tcp", {})), None),
        (peers((None, {})), None),
        (
            peers(
                ("utp", {}),
                ("utp", {}),
                ("utp-punched", {}),
                *[(None, {"utp": "timed-out", "utp-punched": "no-introducer"})] * 3,
                (None, {"utp": "timed-out", "tcp": "refused", "tcp-punched": "timed-out"}),
            ),
            "3 peers: 2 direct (µTP), 1 punched; 4 not reached: 3 timed out, 1 refused",
        ),
        (peers((None, {"tcp": "refused"})), "no peer was reached; 1 not reached: 1 refused"),
        (peers(("tcp", {}), ("utp", {}), ("turn", {})), "3 peers: 2 direct (TCP, µTP), 1 relayed by TURN"),
        (peers(("utp-punched", {}), ("tcp-punched", {})), "2 peers: 2 punched"),
    ],
)
def test_the_line_at_the_end_says_what_is_worth_it(document: dict[str, Any], line: str | None) -> None:
    assert connectivity(document) == line


TORRENT = bytes(20)
THEM, MIDDLE = Endpoint("198.51.100.7", 6881), Endpoint("203.0.113.9", 6882)
INSIDE, ROUTER = Endpoint("192.168.1.23", 51413), "192.168.1.1"


@pytest.mark.parametrize(
    "event,words",
    [
        (
            PunchAsked(TORRENT, THEM, "initiator", MIDDLE),
            "asked 203.0.113.9:6882 to introduce us to 198.51.100.7:6881",
        ),
        (PunchAsked(TORRENT, THEM, "target", MIDDLE), "203.0.113.9:6882 wants us to meet 198.51.100.7:6881"),
        (
            PunchConnected(TORRENT, THEM, "initiator", "utp-punched", 0.61, "endpoint-independent", "none"),
            "utp-punched to 198.51.100.7:6881 in 0.6 s (our NAT maps endpoint-independent, theirs nothing)",
        ),
        (
            PunchFailed(TORRENT, THEM, "target", "timed-out", 5.0),
            "no punch to 198.51.100.7:6881: timed-out after 5.0 s",
        ),
        (RendezvousRelayed(TORRENT, THEM, MIDDLE), "introduced 198.51.100.7:6881 to 203.0.113.9:6882"),
        (RendezvousRefused(TORRENT, THEM, "no-such-peer"), "did not introduce 198.51.100.7:6881: no-such-peer"),
        (
            PortMapped("pcp", "udp", ROUTER, INSIDE, MIDDLE),
            "udp 192.168.1.23:51413 is open as 203.0.113.9:6882: pcp at 192.168.1.1",
        ),
        (
            PortMappingFailed("upnp-igd1", "tcp", ROUTER, INSIDE, "refused", "said\x1b[2J"),
            "tcp 192.168.1.23:51413 was not opened by upnp-igd1 at 192.168.1.1: refused (said\\x1b[2J)",
        ),
        (
            PortMappingLost("pcp", "udp", ROUTER, INSIDE, "gateway-restarted"),
            "udp 192.168.1.23:51413 is not open any more: pcp at 192.168.1.1, gateway-restarted",
        ),
    ],
)
def test_punches_and_gateways_are_told_in_words(event: Event, words: str) -> None:
    assert describe(event) == words
