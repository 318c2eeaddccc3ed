"""What the daemon keeps on disk, damaged in every way: one clear warning, no crash, and data verified instead."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from swarm.daemon.documents import DamagedError, KeptEntry, entry_document, read_counters, read_entry, read_session
from swarm.daemon.entry import Times, Wishes
from swarm.daemon.state import StateDirectory
from swarm.errors import StorageError
from swarm.simnet.internet import open_internet
from swarm.torrent.magnet import Magnet, format_magnet
from swarm.torrent.metainfo import Metainfo
from tests.daemon.plain_session import sample
from tests.daemon.whole import daemon_on, states, wait_until
from tests.fuzzing import fuzz_count, fuzz_seed, mutations
from tests.nodes import Sample, make_sample

PIECES = 8


def samples(directory: Path) -> list[Sample]:
    return [make_sample(directory / f"seed-{number}", PIECES << 14, 16 << 10, seed=number + 1) for number in range(2)]


async def share_two(directory: Path) -> list[Sample]:
    """A daemon has shared them, with things changed at run time, and ended in order."""
    given = samples(directory)
    async with open_internet(1) as internet, daemon_on(internet.host("daemon"), 1, directory) as daemon:
        for each in given:
            await daemon.session.add(each.metainfo, directory=each.directory)
        await wait_until(lambda: states(list(daemon.session.entries.values())) == ["seed", "seed"])
        await daemon.ask("torrent-set", ids=[1], labels=["kept"])
        await daemon.ask("queue-move-bottom", ids=[1])
        await daemon.ask("session-set", speed_limit_up=77)
        assert not daemon.warnings()
    return given


def half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def noise(path: Path) -> None:
    path.write_bytes(random.Random(5).randbytes(path.stat().st_size))


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def strange(path: Path) -> None:
    """Well-formed, and of the wrong kind."""
    path.write_bytes(b"[1, 2]" if path.suffix == ".json" else b"d3:agei7ee")


KINDS = ["session.json", "counters.json", "HASH.json", "HASH.torrent", "HASH.resume"]


def file_of(kind: str, directory: Path, of: Metainfo) -> Path:
    state = directory / "state"
    name = kind.replace("HASH", of.info_hash.hex())
    if kind.endswith(".resume"):
        return state / "resume" / name
    return state / "daemon" / (Path("torrents") / name if kind.startswith("HASH") else name)


DAMAGES = [half, nothing, noise, zeros, folder, loop, strange]


@pytest.mark.parametrize(
    ("kind", "damage"),
    [(kind, damage) for kind in KINDS for damage in DAMAGES if (kind, damage) != ("HASH.resume", folder)],
)
async def test_a_damaged_file_costs_one_warning_and_what_it_said(
    autojump_clock: MockClock, tmp_path: Path, kind: str, damage: Callable[[Path], None]
) -> None:
    given = await share_two(tmp_path)
    first, second = (each.metainfo for each in given)
    damage(file_of(kind, tmp_path, first))
    await _opens_with_one_warning(tmp_path, kind, first, second)
    if damage is half:
        async with open_internet(1) as internet, daemon_on(internet.host("daemon"), 1, tmp_path) as daemon:
            assert not daemon.warnings()  # told once


async def _opens_with_one_warning(directory: Path, kind: str, first: Metainfo, second: Metainfo) -> None:
    async with open_internet(1) as internet, daemon_on(internet.host("daemon"), 1, directory) as daemon:
        one, other = (daemon.session.find(each.info_hash) for each in (first, second))
        assert other is not None
        await wait_until(lambda: other.status == "seed")
        if kind == "HASH.torrent":
            assert one is None
        else:
            assert one is not None
            expected = "stopped" if kind == "HASH.json" else "seed"
            await wait_until(lambda: one.status == expected)
            assert one.wishes.labels == (() if kind == "HASH.json" else ("kept",))
            checked = PIECES if kind == "HASH.resume" else 0
            assert one.torrent is None or one.torrent.statistics().to_check == checked
        assert other.torrent is not None
        assert other.torrent.statistics().to_check == 0
        assert (daemon.session.options.upload_rate == 77_000) is (kind != "session.json")
        warnings = daemon.warnings()
        assert len(warnings) == 1, warnings
        assert file_of(kind, directory, first).name in warnings[0]


async def test_wishes_for_files_that_it_does_not_have_are_damage(autojump_clock: MockClock, tmp_path: Path) -> None:
    given = await share_two(tmp_path)
    path = file_of("HASH.json", tmp_path, given[0].metainfo)
    document = json.loads(path.read_bytes())
    document["wishes"]["high"] = [7]
    path.write_text(json.dumps(document))
    await _opens_with_one_warning(tmp_path, "HASH.json", given[0].metainfo, given[1].metainfo)


@pytest.mark.parametrize("kind", KINDS)
async def test_damage_that_cannot_even_be_set_aside_ends_nothing(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The disk has become read-only, which is also why the file is torn."""
    given = await share_two(tmp_path)
    damaged = file_of(kind, tmp_path, given[0].metainfo)
    half(damaged)
    _forbid_writing(tmp_path / "state", monkeypatch)
    async with open_internet(1) as internet, daemon_on(internet.host("daemon"), 1, tmp_path) as daemon:
        entry = daemon.session.find(given[1].metainfo.info_hash)
        assert entry is not None
        await wait_until(lambda: entry.status == "seed")
        told = [words for words in daemon.warnings() if damaged.name in words]
        assert len(told) == (2 if kind == "HASH.resume" else 1), told  # it cannot be read, and not be kept anew


async def test_a_disk_that_becomes_read_only_ends_nothing_and_is_told(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = await share_two(tmp_path)
    async with open_internet(1) as internet, daemon_on(internet.host("daemon"), 1, tmp_path) as daemon:
        entries = list(daemon.session.entries.values())
        await wait_until(lambda: states(entries) == ["seed", "seed"])
        _forbid_writing(tmp_path / "state", monkeypatch)
        for method, more in (
            ("torrent-stop", {}),
            ("torrent-start", {}),
            ("torrent-set", {"labels": ["a"]}),
            ("session-set", {"speed_limit_up": 5}),
            ("queue-move-up", {}),
        ):
            answer = await daemon.call(method, ids=[1], **more)
            assert "Read-only file system" in answer["result"], method
        added = await daemon.call("torrent-add", filename=f"magnet:?xt=urn:btih:{'a' * 40}")
        assert "Read-only file system" in added["result"]
        assert len(daemon.session.entries) == 2
        for method, more in (("torrent-verify", {}), ("torrent-set-location", {"location": "/nonexistent"})):
            await daemon.ask(method, ids=[entries[1].id], **more)
        await wait_until(lambda: any("Read-only" in words for words in daemon.warnings()))
        await wait_until(lambda: entries[1].job is None)
    assert all(each.is_whole_in(each.directory) for each in given)


def _forbid_writing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def guarded(function: Callable[..., Any], writes: Callable[..., bool]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **more: Any) -> Any:
            inside = isinstance(path, str | os.PathLike) and Path(path).is_relative_to(directory)
            if inside and Path(path).name != "lock" and writes(*arguments, **more):
                raise OSError(errno.EROFS, "Read-only file system", path)
            return function(path, *arguments, **more)

        return call

    always = lambda *arguments, **more: True  # noqa: E731
    by_mode = lambda mode="r", *arguments, **more: not set(mode) <= set("rbt")  # noqa: E731
    monkeypatch.setattr("builtins.open", guarded(open, by_mode))
    monkeypatch.setattr("io.open", guarded(open, by_mode))
    for name in ("replace", "rename", "unlink"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name), always))


# -- the documents alone --------------------------------------------------------------------------------------------

STRANGE: list[Any] = [None, True, -1, 1.5, 10**30, "x", "", [], [None], ["x"], [[1]], {}, {"x": 1}, float("nan")]


def changed_everywhere(document: Any) -> Iterator[Any]:
    """Copies of it, in each of which one value is something else or gone."""
    if isinstance(document, dict | list):
        for key in list(document) if isinstance(document, dict) else range(len(document)):
            for inner in changed_everywhere(document[key]):
                copy = document.copy()
                copy[key] = inner
                yield copy
            copy = document.copy()
            del copy[key]
            yield copy
    yield from STRANGE


def documents() -> list[tuple[Callable[[Any], object], dict[str, Any]]]:
    wishes = Wishes(labels=("a",), high=frozenset({1}), trackers=(("http://x",),), peer_limit=3)
    kept = KeptEntry(source=sample(1), directory=Path("/x"), times=Times(1.0, 2.0), wishes=wishes)
    entry = json.loads(json.dumps(entry_document(kept)))
    session = {
        "options": {"upload_rate": 5, "download_dir": "/x", "default_trackers": [["http://x"]], "seed_idle": 1.5},
        "given": {"upload_limited": True},
        "order": ["aa" * 20],
        **dict.fromkeys(("uploaded", "downloaded", "files_added", "sessions"), 1),
        "seconds_active": 1.5,
    }
    each = dict.fromkeys(("uploaded", "downloaded", "corrupt", "seconds_downloading", "seconds_seeding"), 1)
    counters = {"torrents": {"aa" * 20: {**each, "activity_at": 1.5}}}
    return [
        (lambda document: read_entry(sample(1), document), entry),
        (read_session, session),
        (read_counters, counters),
    ]


@pytest.mark.parametrize("number", range(3))
def test_values_of_wrong_types_are_damage_and_nothing_worse(number: int) -> None:
    read, document = documents()[number]
    read(document)
    refused = 0
    for changed in changed_everywhere(document):
        if isinstance(changed, dict):
            try:
                read(changed)
            except DamagedError:
                refused += 1
    assert refused > 20


def test_fuzzed_files_are_damage_and_nothing_worse(tmp_path: Path) -> None:
    seed = fuzz_seed()
    print(f"seed {seed}")
    state, warnings = StateDirectory(tmp_path), list[str]()
    with state.locked():
        kept = KeptEntry(source=sample(1), directory=Path("/x"), times=Times(1.0))
        state.save_entry(sample(1).info_hash, entry_document(kept))
        state.save_source(sample(1))
        state.save_counters({})
        shutil.copytree(tmp_path / "torrents", tmp_path / "whole")
        stem = sample(1).info_hash.hex()
        valid = [(tmp_path / "whole" / f"{stem}{suffix}").read_bytes() for suffix in (".torrent", ".json")]
        for data in mutations(random.Random(seed), valid, max(fuzz_count() // 50, 40)):
            for suffix in (".torrent", ".json"):
                (tmp_path / "torrents" / f"{stem}{suffix}").write_bytes(data)
                state.load(Path("/d"), 1.0, warnings.append)
                for left in (tmp_path / "torrents").iterdir():
                    left.unlink()
                shutil.copytree(tmp_path / "whole", tmp_path / "torrents", dirs_exist_ok=True)
    assert all(str(tmp_path) in words for words in warnings)


def test_a_torrent_is_there_if_and_only_if_its_source_is(tmp_path: Path) -> None:
    state, warnings = StateDirectory(tmp_path), list[str]()
    magnet = Magnet(info_hash=sample(2).info_hash, name="two")
    with state.locked():
        for source in (sample(1), magnet):
            state.save_entry(
                source.info_hash, entry_document(KeptEntry(source=source, directory=Path("/x"), times=Times(1.0)))
            )
            state.save_source(source)
        torrents = tmp_path / "torrents"
        (torrents / f"{sample(1).info_hash.hex()}.json.new").write_bytes(b"half")  # killed while writing
        (torrents / f"{'b' * 40}.json").write_bytes(b"{}")  # killed before its torrent was written
        assert {kept.source for kept in state.load(Path("/d"), 1.0, warnings.append)} == {sample(1), magnet}
        state.save_source(sample(2))  # the metadata came
        (torrents / f"{magnet.info_hash.hex()}.magnet").write_text(format_magnet(magnet))  # killed in between
        assert {kept.source for kept in state.load(Path("/d"), 1.0, warnings.append)} == {sample(1), sample(2)}
        assert sorted(path.suffix for path in torrents.iterdir()) == [".json", ".json", ".torrent", ".torrent"]
        state.forget(sample(1).info_hash)
        assert [kept.source for kept in state.load(Path("/d"), 1.0, warnings.append)] == [sample(2)]
    assert warnings == []


def test_a_state_directory_that_cannot_be_written_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(StorageError, match=r"cannot write .*File exists"),
        StateDirectory(tmp_path / "file").locked(),
    ):
        pass
