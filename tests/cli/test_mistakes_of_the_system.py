"""What the system refuses: a full standard output, an output directory that is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from swarm.torrent.create import create

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def torrent(tmp_path: Path) -> Path:
    (tmp_path / "data.bin").write_bytes(b"x" * 100_000)
    path = tmp_path / "data.torrent"
    path.write_bytes(create(tmp_path / "data.bin"))
    return path


@pytest.mark.parametrize(
    "arguments", [["show", "--json"], ["download", "--json", "--timeout", "5", "--bind", "127.0.0.1"]]
)
def test_a_full_standard_output_is_4_and_one_sentence(torrent: Path, tmp_path: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "swarm", *arguments, str(torrent)]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False, timeout=30
        )
    assert "cannot write to standard output: No space left on device" in done.stderr
    assert "bug" not in done.stderr
    assert done.returncode == 4


def test_an_output_directory_that_is_a_file_is_found_out_at_once(torrent: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "swarm", "download", str(torrent), "-o", str(tmp_path / "data.bin")]
    command += ["--bind", "127.0.0.1", "-p", "0", "--timeout", "20"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=15)
    assert done.returncode == 4
    assert "data.bin: " in done.stderr
