"""show, magnet, create and verify, and SOURCE in all its forms."""

from __future__ import annotations

import http.server
import io
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dht.bencode import encode
from swarm.cli.main import main
from swarm.torrent.magnet import format_magnet
from swarm.torrent.metainfo import parse_torrent_untrusted
from tests.cli.programs import ROOT, SAMPLE, environment

METAINFO = parse_torrent_untrusted(SAMPLE.read_bytes())

INTERFACE_KEYS = {
    "name",
    "info_hash",
    "info_hash_v2",
    "version",
    "total_size",
    "piece_length",
    "pieces",
    "private",
    "trackers",
    "web_seeds",
    "created_by",
    "creation_date",
    "comment",
    "files",
}


def torrent_of(name: bytes, **extra: object) -> bytes:
    info = {b"name": name, b"length": 5, b"piece length": 16384, b"pieces": b"x" * 20}
    return encode({b"info": info, **{key.encode(): value for key, value in extra.items()}})  # type: ignore[dict-item]


def test_show_json_has_the_keys_of_the_interface(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(SAMPLE), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown.keys() >= INTERFACE_KEYS
    assert shown["info_hash"] == METAINFO.info_hash.hex()
    assert (shown["info_hash_v2"], shown["version"], shown["private"]) == (None, "1", False)
    assert (shown["pieces"], shown["trackers"]) == (METAINFO.piece_count, [])
    assert shown["files"][0] == {"path": "swarm-sample/README.txt", "size": METAINFO.files[0].size}
    assert sum(file["size"] for file in shown["files"]) == shown["total_size"]


def test_show_numbers_the_files_as_select_counts_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(SAMPLE)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.lstrip()[:1].isdecimal()]
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5", "6", "7"]
    assert [row[-1] for row in rows] == ["/".join(file.path[1:]) for file in METAINFO.files]


def test_hostile_texts_reach_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "hostile.torrent"
    path.write_bytes(
        torrent_of(b"\x1b[2Jx\x9b\xe2\x80\xaetxt.exe", comment=b"\x1b]0;owned\x07\nsecond", announce=b"http://a/\x1bz")
    )
    assert main(["show", str(path)]) == 0
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())
    assert main(["show", str(path), "--json"]) == 0
    assert capsys.readouterr().out.replace("\n", "").isprintable()


def test_a_link_shows_what_it_says_and_null_for_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    link = "magnet:?xt=urn:btih:" + "ab" * 20 + "&dn=a%20name&tr=http%3A%2F%2Ft%2Fa&x.pe=192.0.2.1:5"
    assert main(["show", link, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown.keys() >= INTERFACE_KEYS
    assert (shown["info_hash"], shown["name"], shown["trackers"]) == ("ab" * 20, "a name", [["http://t/a"]])
    assert shown["files"] is shown["total_size"] is shown["private"] is None
    assert main(["show", link]) == 0
    assert "a name" in capsys.readouterr().out


def test_magnet_prints_the_link(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["magnet", str(SAMPLE)]) == 0
    assert capsys.readouterr().out == format_magnet(METAINFO) + "\n"
    assert main(["magnet", "AB" * 20]) == 0
    assert capsys.readouterr().out == "magnet:?xt=urn:btih:" + "ab" * 20 + "\n"


def test_a_source_may_come_by_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for data in (SAMPLE.read_bytes(), format_magnet(METAINFO).encode() + b"\n"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert main(["magnet", "-"]) == 0
        assert capsys.readouterr().out == format_magnet(METAINFO) + "\n"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(ROOT / "torrents"))  # type: ignore[arg-type]

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_source_may_be_a_url(web: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["magnet", f"{web}/swarm-sample.torrent"]) == 0
    assert capsys.readouterr().out == format_magnet(METAINFO) + "\n"
    assert main(["magnet", f"{web}/absent.torrent"]) == 1
    assert "http-404" in capsys.readouterr().err
    assert main(["magnet", f"{web}/README.md"]) == 3
    assert "no torrent" in capsys.readouterr().err


@pytest.mark.parametrize(
    "source,code",
    [
        ("/nowhere/at/all.torrent", 4),
        (str(ROOT), 4),
        (str(ROOT / "LICENSE"), 3),
        ("magnet:?dn=nothing", 3),
        ("ftp://example.org/a.torrent", 3),
        ("a\0b", 4),
    ],
)
def test_a_bad_source_has_its_exit_code(source: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", source]) == code
    assert capsys.readouterr().err.startswith("swarm: error: ")


def test_create_gives_the_sample_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.torrent"
    assert main(["create", str(ROOT / "torrents" / "swarm-sample"), "-o", str(target)]) == 0
    assert target.read_bytes() == SAMPLE.read_bytes()
    assert list(tmp_path.iterdir()) == [target]
    shown = capsys.readouterr().out
    assert METAINFO.info_hash.hex() in shown
    assert format_magnet(METAINFO) in shown


def test_create_takes_every_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").write_bytes(b"x" * 100_000)
    target = tmp_path / "out.torrent"
    options = (
        "--tracker http://a/b --tracker udp://c:1 --private --piece-length 64KiB --web-seed http://w/ --comment hi"
    )
    assert main(["create", str(tmp_path / "data"), "-o", str(target), *options.split()]) == 0
    made = parse_torrent_untrusted(target.read_bytes())
    assert made.trackers == (("http://a/b",), ("udp://c:1",))
    assert (made.private, made.piece_length, made.comment) == (True, 65536, "hi")
    assert made.web_seeds == ("http://w/",)


def test_create_overwrites_only_by_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "precious"
    target.write_text("mine")
    source = str(ROOT / "LICENSE")
    assert main(["create", source, "-o", str(target)]) == 4
    assert target.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert main(["create", source, "-o", str(target), "--force"]) == 0
    assert parse_torrent_untrusted(target.read_bytes()).name == "LICENSE"


@pytest.mark.parametrize(
    "arguments,code",
    [
        (["/nowhere", "-o", "OUT"], 4),
        ([str(ROOT / "LICENSE"), "-o", "/nowhere/x.torrent"], 4),
        ([str(ROOT / "LICENSE"), "-o", "OUT", "--piece-length", "1000"], 2),
        ([str(ROOT / "LICENSE"), "-o", "OUT", "--tracker", "nonsense"], 2),
        ([str(ROOT / "LICENSE")], 2),
    ],
)
def test_create_says_what_is_wrong(
    arguments: list[str], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["create", *(str(tmp_path / "out") if word == "OUT" else word for word in arguments)]) == code
    assert capsys.readouterr().err.startswith("swarm: error: ")
    assert list(tmp_path.iterdir()) == []


def test_create_writes_to_standard_output(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "swarm", "create", str(ROOT / "LICENSE"), "-o", "-"],
        capture_output=True,
        env=environment(tmp_path),
    )
    assert made.returncode == 0
    assert parse_torrent_untrusted(made.stdout).name == "LICENSE"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "torrents" / "swarm-sample", tmp_path / "swarm-sample")
    return tmp_path


def test_verify_is_content_with_good_data(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(SAMPLE), "-o", str(copy)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert all(line.startswith("ok ") for line in lines[:7])
    assert "63 pieces" in lines[7]


def test_verify_names_what_is_bad(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = copy / "swarm-sample"
    (sample / "z").unlink()
    (sample / "chronicle" / "errata.txt").unlink()
    with open(sample / "tables" / "journeys.csv", "r+b") as file:
        file.seek(100_000)
        file.write(b"!")
    with open(sample / "tables" / "primes.txt", "ab") as file:
        file.write(b"more")
    assert main(["verify", str(SAMPLE), "-o", str(copy)]) == 6
    captured = capsys.readouterr()
    bad = {line.split(":")[0].split("/")[-1]: line for line in captured.out.splitlines() if line.startswith("bad")}
    assert bad.keys() == {"z", "errata.txt", "journeys.csv", "primes.txt"}
    assert "missing" in bad["z"]
    assert "1 of 19 pieces bad" in bad["journeys.csv"] or "1 of 20 pieces bad" in bad["journeys.csv"]
    assert "too long" in bad["primes.txt"]
    assert "4 of 7 files" in captured.err


def test_verify_of_nothing_is_a_failed_verification(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(SAMPLE), "-o", str(tmp_path), "-q"]) == 6
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []
