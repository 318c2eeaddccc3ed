"""The daemon as a program, spoken to by the commands of the same program; its own state, home and folder each."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from pathlib import Path

from tests.cli.programs import swarm
from tests.daemon.program import DAEMON, LIMIT, SEEDING, STOPPED, ask, daemon, listed, sample, status, until


def test_data_that_is_there_is_verified_and_shared_and_the_commands_rule_it(tmp_path: Path) -> None:
    torrent = sample(tmp_path)
    with daemon(tmp_path) as process:
        added = ask(tmp_path, "add", torrent, "-o", tmp_path / "data")
        assert (added.returncode, added.stdout) == (0, "added 1  sample.bin\n")
        until(lambda: status(tmp_path) == [SEEDING])
        assert "was there already" in ask(tmp_path, "add", torrent).stderr
        assert ask(tmp_path, "stop", "1").returncode == 0
        until(lambda: status(tmp_path) == [STOPPED])
        assert ask(tmp_path, "start", "all").returncode == 0
        until(lambda: status(tmp_path) == [SEEDING])
        unknown = ask(tmp_path, "start", "7")
        assert unknown.returncode == 1
        assert "has no torrent '7'" in unknown.stderr
        assert json.loads(ask(tmp_path, "stats", "--json").stdout)["torrents"][0]["name"] == "sample.bin"
        assert ask(tmp_path, "remove", "--delete-data", "1").returncode == 0
        until(lambda: not (tmp_path / "data" / "sample.bin").exists())
        assert listed(tmp_path) == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0


def test_after_a_kill_nothing_is_lost_and_nothing_is_hashed_again(tmp_path: Path) -> None:
    torrent = sample(tmp_path)
    with daemon(tmp_path) as process:
        ask(tmp_path, "add", torrent, "-o", tmp_path / "data")
        until(lambda: status(tmp_path) == [SEEDING])
        process.kill()
        process.wait(LIMIT)
    data = tmp_path / "data" / "sample.bin"
    stamp = data.stat()
    data.write_bytes(bytes(256_000))  # whoever hashes it again finds out
    os.utime(data, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with daemon(tmp_path):
        until(lambda: status(tmp_path) == [SEEDING])


def test_a_second_signal_ends_it_in_the_middle_of_the_last_save_and_nothing_is_lost(tmp_path: Path) -> None:
    torrent = sample(tmp_path)
    kept = tmp_path / ".local/state/swarm/daemon"
    with daemon(tmp_path, before=SLOW_DISK, SLOW=str(tmp_path / "slow")) as process:
        ask(tmp_path, "add", torrent, "-o", tmp_path / "data")
        until(lambda: status(tmp_path) == [SEEDING])
        (tmp_path / "slow").touch()
        process.send_signal(signal.SIGTERM)
        until((kept / "counters.json.new").exists)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(LIMIT) == 128 + signal.SIGTERM
        assert time.monotonic() - began < SLOWNESS / 2
    assert (kept / "counters.json.new").exists(), "it was in the middle"
    (tmp_path / "log").write_bytes(b"")
    with daemon(tmp_path):
        until(lambda: status(tmp_path) == [SEEDING])
    assert "warning" not in (tmp_path / "log").read_text()


SLOWNESS = 5
SLOW_DISK = f"""import os, time; sync = os.fsync
def slow(fd): sync(fd); time.sleep({SLOWNESS} if os.path.exists(os.environ["SLOW"]) else 0)
os.fsync = slow; pass"""


def test_a_second_daemon_on_the_same_state_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with daemon(tmp_path) as process:
        second = swarm(tmp_path, "daemon", *DAEMON, "--rpc", f"unix:{tmp_path}/second")
        assert second.returncode == 1
        assert f"another daemon (process {process.pid}) is using" in second.stderr
        assert second.stderr.count("\n") == 1


def test_a_damaged_torrent_costs_one_warning_and_the_others_go_on(tmp_path: Path) -> None:
    torrent = sample(tmp_path)
    with daemon(tmp_path):
        ask(tmp_path, "add", torrent, "-o", tmp_path / "data")
        until(lambda: status(tmp_path) == [SEEDING])
    kept = tmp_path / ".local/state/swarm/daemon/torrents"
    (kept / f"{'a' * 40}.torrent").write_bytes(b"rubbish")
    (tmp_path / "log").write_bytes(b"")
    with daemon(tmp_path):
        until(lambda: status(tmp_path) == [SEEDING])
    assert (tmp_path / "log").read_text().count("warning") == 1
    assert (kept / f"{'a' * 40}.torrent.damaged").exists()


def test_what_is_put_into_the_folder_is_added(tmp_path: Path) -> None:
    torrent = sample(tmp_path)
    watched = tmp_path / "watch"
    watched.mkdir()
    with daemon(tmp_path, "--watch", watched):
        (watched / "half.torrent").write_bytes(torrent.read_bytes()[:50])
        (watched / "whole.torrent").write_bytes(torrent.read_bytes())
        until(lambda: len(listed(tmp_path) or []) == 1)
        until((watched / "whole.torrent.added").exists)
        assert (watched / "half.torrent").exists()  # it may still be written


def test_the_configuration_is_read_again_on_hup_and_statistics_come_on_usr1(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('upload-rate = "1M"\n')
    log = tmp_path / "log"
    with daemon(tmp_path, "--config", config) as process:
        config.write_text('upload-rate = "2M"\nport = 5\n')
        process.send_signal(signal.SIGHUP)
        until(lambda: "read again" in log.read_text())
        config.write_text('upload-raet = "2M"\n')
        process.send_signal(signal.SIGHUP)
        until(lambda: "did you mean 'upload-rate'" in log.read_text())
        process.send_signal(signal.SIGUSR1)
        until(lambda: '"schema": 1' in log.read_text())


def test_systemd_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(LIMIT)
        with daemon(tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="600000") as process:
            words = {told.recv(1000) for _ in range(4)}
            assert {b"READY=1", b"WATCHDOG=1"} <= words
            assert any(word.startswith(b"STATUS=0 torrents; port ") for word in words)
            process.terminate()
            while told.recv(1000) != b"STOPPING=1":
                pass


def test_host_names_that_were_given_pass_and_no_others(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "config.toml").write_text('rpc-host-names = ["nas.lan", "*.home.example"]\n')
    with daemon(tmp_path, "--rpc", f"127.0.0.1:{port}", "--config", tmp_path / "config.toml"):
        assert [page(port, host) for host in ("nas.lan", "a.home.example", "evil.example")] == [200, 200, 421]


def page(port: int, host: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    connection.request("GET", "/", headers={"Host": f"{host}:{port}"})
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_peer_is_no_option_of_the_daemon_which_has_no_torrent_to_ask_it_for(tmp_path: Path) -> None:
    refused = swarm(tmp_path, "daemon", "--peer", "127.0.0.1:1")
    assert refused.returncode == 2
    assert "unknown option '--peer'" in refused.stderr


def test_an_address_that_others_reach_wants_a_password(tmp_path: Path) -> None:
    refused = swarm(tmp_path, "daemon", "--rpc", "0.0.0.0:0")
    assert refused.returncode == 2
    assert "rpc-password-file in" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_without_a_daemon_every_command_says_how_to_start_one(tmp_path: Path) -> None:
    for command in (["list"], ["add", "a" * 40], ["start", "1"], ["stop", "all"], ["remove", "1"], ["stats"]):
        answer = ask(tmp_path, *command)
        assert answer.returncode == 7
        assert "'swarm daemon' starts one" in answer.stderr
