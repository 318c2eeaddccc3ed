"""What somebody does to the daemon who may speak to it, or shares its machine."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import trio

from swarm.cli.remote import password_of
from swarm.cli.settle import settle
from swarm.daemon.data import check_way, delete_data, move_data
from swarm.daemon.rpc_torrents import MAX_IDS
from swarm.daemon.state import StateDirectory
from swarm.errors import StorageError, UsageError
from swarm.torrent.create import create
from swarm.torrent.metainfo import Metainfo, parse_torrent_untrusted
from tests.daemon.plain_session import sample
from tests.daemon.test_rpc import Remote
from tests.daemon.test_rpc import remote as remote
from tests.daemon.test_rpc import with_torrents as with_torrents


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
async def test_a_tag_that_json_cannot_write_does_not_come_back(remote: Remote, number: str) -> None:
    response = await remote.post(b'{"method": "session-stats", "tag": %b}' % number.encode())
    assert isinstance(response.body, bytes)
    answer = json.loads(response.body, parse_constant=pytest.fail)
    assert answer["result"] == "success"
    assert "tag" not in answer


async def test_more_ids_than_can_be_are_not_looked_up(with_torrents: Remote) -> None:
    told = await with_torrents.ask("torrent-get", ids=[1] * MAX_IDS, fields=["id"])
    assert told == {"torrents": [{"id": 1}]}
    for method in ("torrent-get", "torrent-remove"):
        error = await with_torrents.error(method, {"ids": [1] * (MAX_IDS + 1), "fields": ["id"]})
        assert error.startswith("ids: ")
    assert len(with_torrents.session.entries) == 3


async def test_what_is_no_file_is_not_opened(remote: Remote, tmp_path: Path) -> None:
    """A FIFO would keep a thread for ever, and the daemon from ending."""
    fifo = tmp_path / "x.torrent"
    os.mkfifo(fifo)
    with trio.fail_after(5):
        for path in (fifo, tmp_path, "/dev/zero"):
            assert "no file" in await remote.error("torrent-add", {"filename": str(path)})


def test_what_is_kept_is_nobody_elses_business(tmp_path: Path) -> None:
    directory = tmp_path / "state" / "daemon"
    state = StateDirectory(directory)
    with state.locked():
        state.save_source(sample(0))
        state.save_counters({sample(0).info_hash: {}})
        for each in (directory, directory.parent, directory / "torrents"):
            assert stat.S_IMODE(each.stat().st_mode) == 0o700, each


def test_a_user_that_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("word")
    given = {"rpc_user": "some:body", "rpc_password_file": tmp_path / "password"}
    with pytest.raises(UsageError, match="--rpc-user: a name with a colon"):
        password_of(settle(given, {}))


@pytest.fixture
def shared(tmp_path: Path) -> Metainfo:
    """A torrent whose files are in ``tmp_path / "data"``."""
    (tmp_path / "data/t/sub").mkdir(parents=True)
    (tmp_path / "data/t/a").write_bytes(b"a")
    (tmp_path / "data/t/sub/b").write_bytes(b"b")
    return parse_torrent_untrusted(create(tmp_path / "data/t"))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Somebody's own, with names like those of the torrent."""
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "empty").mkdir()
    (outside / "b").write_bytes(b"precious")
    (outside / "sub/b").write_bytes(b"precious, too")
    return outside


def names(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


@pytest.mark.parametrize("planted", ["t/sub", "t"])
def test_files_behind_a_symbolic_link_are_not_deleted(
    tmp_path: Path, shared: Metainfo, outside: Path, planted: str
) -> None:
    data, before = tmp_path / "data", names(outside)
    (data / planted).rename(tmp_path / "put away")
    (data / planted).symlink_to(outside)
    delete_data(shared, data)
    assert names(outside) == before
    assert not (data / "t/a").exists()


def test_directories_behind_a_symbolic_link_are_not_removed(tmp_path: Path, shared: Metainfo, outside: Path) -> None:
    data = tmp_path / "data"
    (data / "t").rename(tmp_path / "put away")
    (data / "t").symlink_to(outside)
    (outside / "sub/b").unlink()
    delete_data(shared, data)
    assert (outside / "sub").is_dir()  # though it is empty, and called like one of the torrent's


@pytest.mark.parametrize("planted", ["t/sub", "t"])
def test_nothing_is_moved_behind_a_symbolic_link(tmp_path: Path, shared: Metainfo, outside: Path, planted: str) -> None:
    target, before = tmp_path / "target", names(outside)
    (target / planted).parent.mkdir(parents=True)
    (target / planted).symlink_to(outside / "empty")
    with pytest.raises(StorageError, match="is a symbolic link, and those are not followed"):
        check_way(shared, tmp_path / "data", target)
    assert names(outside) == before
    (target / planted).unlink()
    check_way(shared, tmp_path / "data", target)
    move_data(shared, tmp_path / "data", target)
    assert (target / "t/sub/b").read_bytes() == b"b"
    assert not (tmp_path / "data/t").exists()
