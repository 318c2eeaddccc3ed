"""The README's systemd unit, as ``systemd-analyze`` judges it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from textwrap import dedent

import pytest

from tests.needs import need_program

pytestmark = pytest.mark.interop

README = Path(__file__).resolve().parent.parent.parent / "README.md"


def unit() -> str:
    (block,) = re.findall(r"^    \[Unit\]\n(?:    .*\n|\n(?=    ))*", README.read_text(encoding="utf-8"), re.MULTILINE)
    return dedent(block)


def judged(directory: Path, text: str) -> str:
    """What is wrong with a user's unit; empty if nothing is."""
    verify = need_program("systemd-analyze")
    program = directory / ".local" / "bin" / "swarm"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    runtime = directory / "runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    file = directory / "swarm.service"
    file.write_text(text)
    environment = os.environ | {"HOME": str(directory), "XDG_RUNTIME_DIR": str(runtime)}
    command = [verify, "verify", "--user", "--man=no", str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
    return done.stdout + done.stderr


def test_the_unit_of_the_readme_has_nothing_wrong(tmp_path: Path) -> None:
    assert judged(tmp_path, unit()) == ""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("Type=notify", "Type=notyfy"),
        ("[Install]", "[Instal]"),
        ("WatchdogSec=60", "WatchdogSec=often"),
        ("/swarm daemon", "/swarn daemon"),
    ],
)
def test_what_is_wrong_would_be_found(tmp_path: Path, right: str, wrong: str) -> None:
    text = unit()
    assert right in text
    assert judged(tmp_path, text.replace(right, wrong)) != ""
