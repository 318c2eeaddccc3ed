"""download and seed as programs, over loopback; the library's download; the demo."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

import swarm as library
from swarm.cli.demo import meet, story
from swarm.cli.download import selected_files
from swarm.cli.main import main
from swarm.cli.units import parse_selection
from swarm.config import Config
from swarm.endpoint import parse_endpoint
from swarm.errors import StorageError, UsageError
from swarm.events import Event, TorrentCompleted
from swarm.state import keep_port, remembered_port
from swarm.torrent.metainfo import parse_torrent_untrusted
from tests.cli.programs import ROOT, SAMPLE, events, running, seeding, swarm

METAINFO = parse_torrent_untrusted(SAMPLE.read_bytes())
LOOPBACK = ("--bind", "127.0.0.1", "-p", 0)


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with seeding(tmp_path_factory.mktemp("seed"), SAMPLE, ROOT / "torrents") as address:
        yield address


def same(directory: Path) -> bool:
    return all(
        directory.joinpath(*file.path).read_bytes() == (ROOT / "torrents").joinpath(*file.path).read_bytes()
        for file in METAINFO.files
    )


def test_a_download_ends_with_0_and_a_second_run_only_verifies(seed: str, tmp_path: Path) -> None:
    target = tmp_path / "new" / "target"
    first = swarm(tmp_path, "download", SAMPLE, "-o", target, "--peer", seed, *LOOPBACK)
    assert first.returncode == 0, first.stderr
    assert first.stdout == ""
    assert "1.03 MB in" in first.stderr
    assert "from 1 peer" in first.stderr
    assert same(target)
    second = swarm(tmp_path, "download", SAMPLE, "-o", target, *LOOPBACK)
    assert second.returncode == 0
    assert "complete, 1.03 MB verified" in second.stderr
    quiet = swarm(tmp_path, "download", SAMPLE, "-o", target, "-q", *LOOPBACK)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_json_tells_the_whole_run_in_order(seed: str, tmp_path: Path) -> None:
    done = swarm(tmp_path, "download", SAMPLE, "-o", tmp_path, "--peer", seed, "--json", *LOOPBACK)
    assert (done.returncode, done.stderr) == (0, "")
    told = events(done.stdout)
    assert all({"event", "time"} <= each.keys() for each in told)
    assert [each["time"] for each in told if each["event"] != "progress"] == sorted(
        each["time"] for each in told if each["event"] != "progress"
    )
    assert told[0]["event"] == "start"
    assert (told[0]["info_hash"], told[0]["name"]) == (METAINFO.info_hash.hex(), "swarm-sample")
    assert told[0]["total_size"] == METAINFO.total_size
    assert told[-1]["event"] == "done"
    assert told[-1]["path"] == str(tmp_path / "swarm-sample")
    assert sorted(each["index"] for each in told if each["event"] == "piece") == list(range(METAINFO.piece_count))
    connected = next(each for each in told if each["event"] == "peer")
    assert (connected["endpoint"], connected["state"], connected["path"]) == (seed, "connected", "tcp")
    assert (connected["direction"], connected["client"]) == ("out", "swarm 0.1.0")
    progress = next(each for each in told if each["event"] == "progress")
    assert progress.keys() >= {"done", "total", "down_rate", "up_rate", "peers"}


def test_only_selected_files_are_fetched(seed: str, tmp_path: Path) -> None:
    done = swarm(tmp_path, "download", SAMPLE, "-o", tmp_path, "--select", "1,6", "--peer", seed, *LOOPBACK)
    assert done.returncode == 0
    primes = Path("swarm-sample/tables/primes.txt")
    assert (tmp_path / primes).read_bytes() == (ROOT / "torrents" / primes).read_bytes()
    assert not (tmp_path / "swarm-sample" / "chronicle" / "volume-2.txt").exists()


def test_a_selection_beyond_the_last_file_is_a_mistake() -> None:
    assert selected_files(METAINFO, parse_selection("7,1-2")) == {6, 0, 1}
    with pytest.raises(UsageError, match="7 files"):
        selected_files(METAINFO, parse_selection("8"))


def test_several_sources_are_fetched_by_one_node(seed: str, tmp_path: Path) -> None:
    made = tmp_path / "licence.torrent"
    swarm(tmp_path, "create", ROOT / "LICENSE", "-o", made)
    shutil.copy(ROOT / "LICENSE", tmp_path)
    done = swarm(tmp_path, "download", SAMPLE, made, SAMPLE, "-o", tmp_path, "--peer", seed, "--json", *LOOPBACK)
    assert done.returncode == 0
    assert len([each for each in events(done.stdout) if each["event"] == "done"]) == 2


def test_a_download_that_gets_nothing_is_given_up_with_reasons(tmp_path: Path) -> None:
    done = swarm(tmp_path, "download", SAMPLE, "-o", tmp_path, "--timeout", "0.5", "--json", *LOOPBACK)
    assert done.returncode == 5
    assert "no peer is known" in done.stderr
    last = events(done.stdout)[-1]
    assert (last["event"], last["code"]) == ("error", 5)
    assert "names no tracker" in last["message"]


def test_a_file_system_that_refuses_is_exit_code_4(seed: str, tmp_path: Path) -> None:
    (tmp_path / "swarm-sample").write_text("in the way")
    done = swarm(tmp_path, "download", SAMPLE, "-o", tmp_path, "--peer", seed, *LOOPBACK)
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].startswith("swarm: error: ")


def test_a_port_that_is_taken_is_exit_code_1(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        done = swarm(tmp_path, "download", SAMPLE, "-o", tmp_path, "--bind", "127.0.0.1", "-p", port)
    assert done.returncode == 1
    assert done.stderr.startswith(f"swarm: error: port {port} is ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_next_run_goes_on(seed: str, tmp_path: Path, number: signal.Signals) -> None:
    arguments = ("download", SAMPLE, "-o", tmp_path, "--peer", seed, "--json", *LOOPBACK)
    with running(tmp_path, *arguments, "-d", "200k") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if '"piece"' in line:
                break
        started = time.monotonic()
        process.send_signal(number)
        output, errors = process.communicate(timeout=5)
    assert time.monotonic() - started < 3
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    assert events(output)[-1]["event"] == "error"
    told = events(swarm(tmp_path, *arguments).stdout)
    checked = next(each for each in told if each["event"] == "checked")
    assert 0 < checked["verified"] < METAINFO.piece_count
    assert told[-1]["event"] == "done"


def asked(silent: socket.socket) -> None:
    """Wait until somebody asks for something, and hang up: the next to ask waits for an answer."""
    silent.settimeout(10)
    connection, _ = silent.accept()
    with connection:
        connection.recv(10)


def test_a_tracker_that_never_answers_does_not_keep_us(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        made = tmp_path / "x.torrent"
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/announce"
        swarm(tmp_path, "create", ROOT / "LICENSE", "-o", made, "--tracker", url)
        shutil.copy(ROOT / "LICENSE", tmp_path)
        with running(tmp_path, "seed", made, "-o", tmp_path, *LOOPBACK) as process:
            asked(silent)
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            process.wait(5)
            assert time.monotonic() - started < 3
            assert process.returncode == 130


def test_a_second_signal_leaves_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        made = tmp_path / "x.torrent"
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/announce"
        swarm(tmp_path, "create", ROOT / "LICENSE", "-o", made, "--tracker", url)
        shutil.copy(ROOT / "LICENSE", tmp_path)
        with running(tmp_path, "seed", made, "-o", tmp_path, *LOOPBACK) as process:
            asked(silent)
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)  # it is saying goodbye to a tracker that does not answer
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            process.wait(5)
            assert time.monotonic() - started < 1


def test_seeding_what_is_absent_is_4_and_what_is_damaged_is_6(tmp_path: Path) -> None:
    absent = swarm(tmp_path, "seed", SAMPLE, "-o", tmp_path, *LOOPBACK)
    assert absent.returncode == 4
    assert "nothing of swarm-sample" in absent.stderr
    shutil.copytree(ROOT / "torrents" / "swarm-sample", tmp_path / "swarm-sample")
    with open(tmp_path / "swarm-sample" / "z", "r+b") as file:
        file.write(b"damaged")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("swarm-sample/**/*")}
    damaged = swarm(tmp_path, "seed", SAMPLE, "-o", tmp_path, *LOOPBACK)
    assert damaged.returncode == 6
    assert "1 of 63 pieces" in damaged.stderr
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("swarm-sample/**/*")}


def test_a_seed_that_nobody_asks_is_given_up(tmp_path: Path) -> None:
    done = swarm(tmp_path, "seed", SAMPLE, "-o", ROOT / "torrents", "--timeout", "0.3", *LOOPBACK)
    assert done.returncode == 5
    assert "nobody fetched anything" in done.stderr


def test_a_download_shares_until_the_ratio_or_the_time_is_reached(seed: str, tmp_path: Path) -> None:
    timed = swarm(tmp_path, "download", SAMPLE, "-o", tmp_path / "a", "--peer", seed, "--seed-time", "0.2", *LOOPBACK)
    assert timed.returncode == 0
    arguments = ("download", SAMPLE, "-o", tmp_path / "b", "--peer", seed, "--seed-ratio", "0.9", "--json", *LOOPBACK)
    with running(tmp_path, *arguments) as process:
        assert process.stdout is not None
        port = None
        for line in process.stdout:
            (told,) = events(line)
            port = port or told.get("port")
            if told["event"] == "done":
                break
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.7)
        # A state of its own: that of the first download remembers the seed.
        second = swarm(tmp_path / "c", "download", SAMPLE, "-o", tmp_path, "--peer", f"127.0.0.1:{port}", *LOOPBACK)
        assert second.returncode == 0, second.stderr
        assert process.wait(5) == 0


async def test_the_library_downloads_in_one_call(seed: str, tmp_path: Path) -> None:
    told: list[Event] = []
    config = Config(bind="127.0.0.1", port=0)
    with trio.fail_after(10):
        path = await library.download(
            SAMPLE, tmp_path, config=config, peers=[parse_endpoint(seed)], on_event=told.append
        )
    assert path == tmp_path / "swarm-sample"
    assert same(tmp_path)
    assert TorrentCompleted(METAINFO.info_hash) in told


def test_the_library_downloads_without_trio_too(seed: str, tmp_path: Path) -> None:
    config, peers = Config(bind="127.0.0.1", port=0), [parse_endpoint(seed)]
    assert (
        library.download_sync(METAINFO, tmp_path, config=config, peers=peers, timeout=10) == tmp_path / "swarm-sample"
    )
    assert same(tmp_path)
    with pytest.raises(TimeoutError):
        library.download_sync(METAINFO, tmp_path / "elsewhere", config=config, timeout=0.2)
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "swarm-sample").write_text("in the way")
    with pytest.raises(StorageError):
        library.download_sync(METAINFO, tmp_path / "blocked", config=config, peers=peers, timeout=10)


def test_the_demo_shows_a_download(capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    assert main(["demo"]) == 0
    assert time.monotonic() - started < 20
    shown = capsys.readouterr().out
    assert "all 63 pieces" in shown
    assert "7 files read again from disk: all hashes match" in shown


def test_the_demo_ends_with_two_simulated_nats_being_punched_and_the_statistics(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["demo"]) == 0
    shown = capsys.readouterr().out
    _, cone, symmetric = re.split("^(?:Both are behind a cone|The leech's NAT takes)", shown, flags=re.MULTILINE)
    for part in (cone, symmetric):
        assert "leech       asks the introducer to be introduced to the seed" in part
        assert "introducer  tells the leech and the seed of each other" in part
        assert re.search(r"All 63 pieces in \d+\.\d s of simulated time", part)
        assert re.search(r"\nHole punches\n  we asked +1  of [12] ", part)
        assert "\nPeers connected\n" in part
    assert re.search(r"connected to the seed: (µTP|TCP), punched$", cone, re.MULTILINE)
    assert "one of many ports and one of many guesses fit (birthday)" in symmetric
    assert re.search(r"  birthday out +1 +1 ", symmetric)
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("kind", ["symseq", "udpblock"])
def test_the_demo_tells_every_kind_of_meeting(kind: str, tmp_path: Path) -> None:
    meeting = trio.run(
        meet, "cone", kind, METAINFO, ROOT / "torrents", tmp_path, 1, clock=MockClock(autojump_threshold=0)
    )
    assert meeting.complete
    assert list(story(meeting))[-1].endswith("leech       has everything")


def test_a_port_that_moved_is_told_and_one_that_was_never_kept_did_not_move(tmp_path: Path) -> None:
    state = tmp_path / ".local" / "state" / "swarm"
    state.mkdir(parents=True)
    assert remembered_port(state) is None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        keep_port(state, held.getsockname()[1])
        arguments = ("download", SAMPLE, "-o", ROOT / "torrents", "--bind", "127.0.0.1")
        moved = swarm(tmp_path, *arguments)
        assert f"port {held.getsockname()[1]} is taken" in moved.stderr
    shutil.rmtree(state)
    state.write_text("not a directory: nothing can be kept")
    unkept = swarm(tmp_path, *arguments)
    assert unkept.returncode == 0
    assert "is taken" not in unkept.stderr
