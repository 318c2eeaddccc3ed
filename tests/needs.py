"""What a test needs and may not find: skipped with a printed reason, but a failure where everything must be there.

CI sets SWARM_REQUIRE_ALL=1, so that a skip can never hide a missing install step.
"""

from __future__ import annotations

import importlib.util
import os
import shutil

import pytest


def need_program(name: str) -> str:
    """The path of a program."""
    path = shutil.which(name)
    if path is None:
        missing(f"the program {name} is not installed")
    assert path is not None
    return path


def need_root() -> None:
    """The test makes network namespaces, tunnels or firewalls."""
    if os.geteuid() != 0:
        missing("this test needs root")


def need_module(name: str) -> None:
    """The test imports an optional Python module."""
    if importlib.util.find_spec(name) is None:
        missing(f"the Python module {name} is not installed")


def missing(reason: str) -> None:
    """Skip the test, or the whole module, saying why; fail instead where everything must be there."""
    if os.environ.get("SWARM_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason}, and SWARM_REQUIRE_ALL=1 forbids skipping", pytrace=False)
    print(f"skipped: {reason}")
    pytest.skip(reason, allow_module_level=True)
