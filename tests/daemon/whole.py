"""A whole daemon without its process: a node on a simulated internet, its session, and the RPC spoken to directly.

Virtual time; the disk is real, and blocking calls run inline.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from swarm.daemon.access import SESSION_HEADER, SessionId
from swarm.daemon.entry import Entry
from swarm.daemon.http import Request
from swarm.daemon.options import Options
from swarm.daemon.rpc import Rpc
from swarm.daemon.session import Session, open_session
from swarm.daemon.state import StateDirectory
from swarm.events import Warned
from swarm.net.network import Network
from swarm.torrent.disk import run_inline
from tests.nodes import Recorded, node_on

SECONDS = 120.0
"""Of virtual time, in which what is waited for has to happen."""


@dataclass(frozen=True)
class Daemon:
    node: Recorded
    session: Session
    rpc: Rpc
    session_id: SessionId

    async def call(self, method: str, **arguments: Any) -> Any:
        """The whole answer; ``_`` in names of arguments stands for ``-``."""
        told = {name.replace("_", "-"): value for name, value in arguments.items()}
        body = json.dumps({"method": method, "arguments": told}).encode()
        headers = {SESSION_HEADER.lower(): self.session_id.value}
        response = await self.rpc.answer(Request("POST", "/transmission/rpc", "/transmission/rpc", {}, headers, body))
        assert isinstance(response.body, bytes)
        return json.loads(response.body)

    async def ask(self, method: str, **arguments: Any) -> Any:
        """The arguments of a success."""
        answer = await self.call(method, **arguments)
        assert answer["result"] == "success", answer
        return answer["arguments"]

    async def get(self, entry: Entry, *fields: str) -> Any:
        """These fields of a torrent; of one field its value."""
        told = (await self.ask("torrent-get", ids=[entry.id], fields=list(fields)))["torrents"][0]
        return told[fields[0]] if len(fields) == 1 else [told[name] for name in fields]

    def warnings(self) -> list[str]:
        return [event.message for event in self.node.of(Warned)]


@asynccontextmanager
async def daemon_on(
    network: Network, number: int, directory: Path, *, config: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Daemon]:
    """A daemon that keeps its state in ``directory / "state"`` and downloads to ``directory / "downloads"``."""
    state = directory / "state"
    options = {"download_dir": directory / "downloads", **options}
    with StateDirectory(state / "daemon").locked():
        node_opened = node_on(network, number, **{"state_directory": state, **(config or {})})
        async with node_opened as node:
            given = Options(**options)
            async with open_session(node.node, state / "daemon", given, runner=run_inline) as session:
                session_id = SessionId()
                yield Daemon(node, session, Rpc(session, session_id, runner=run_inline), session_id)


async def wait_until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.1)


def states(entries: Sequence[Entry]) -> list[str]:
    return [entry.status for entry in entries]
