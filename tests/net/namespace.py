"""Runs Python in a network namespace of its own, where addresses may come and go without touching this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

from tests.needs import need_program, need_root

CHECKOUT = Path(__file__).resolve().parent.parent.parent
DEADLINE = 20.0  # seconds for the whole script


def run_in_namespace(setup: Sequence[str], code: str) -> str:
    """What ``code`` printed, after the shell commands of ``setup``; a failure shows its standard error."""
    need_root()
    need_program("ip")
    unshare = need_program("unshare")
    script = "set -e\nip link set lo up\n" + "\n".join(setup) + '\nexec "$0" -W error -c "$1"'
    command = [unshare, "--net", "sh", "-c", script, sys.executable, dedent(code)]
    result = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=DEADLINE)
    assert result.returncode == 0, result.stderr
    return result.stdout
