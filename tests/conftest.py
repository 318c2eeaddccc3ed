"""What holds for every test: a command that is run without ``--bind`` stays on this machine.

A node with its defaults talks to gateways, multicast groups and the routers of the DHT.  Only tests that make networks
of their own may let it.
"""

from __future__ import annotations

import pytest

OWN_NETWORKS = {"netlab"}
"""Folders whose tests run commands in namespaces."""


@pytest.fixture(autouse=True)
def bound_to_loopback(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not OWN_NETWORKS & set(request.path.parts):
        monkeypatch.setenv("SWARM_BIND", "127.0.0.1")
