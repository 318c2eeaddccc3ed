"""What holds for every test: a command that is run without ``--bind`` stays on this machine.

A node with its defaults talks to gateways, multicast groups and the routers of the DHT.  Only tests that make networks
of their own may let it.  And a command can be interrupted: what runs in the background of a shell ignores SIGINT, and
so would all that the tests start.
"""

from __future__ import annotations

import signal

import pytest

OWN_NETWORKS = {"netlab"}
"""Folders whose tests run commands in namespaces."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def bound_to_loopback(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not OWN_NETWORKS & set(request.path.parts):
        monkeypatch.setenv("SWARM_BIND", "127.0.0.1")
