"""The whole daemon: a node, its session, the watch folder, and the listeners on which it is spoken to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import trio

from swarm.config import Config
from swarm.daemon.access import Access, SessionId
from swarm.daemon.http import serve
from swarm.daemon.listen import Address, open_listeners
from swarm.daemon.notify import Notifier
from swarm.daemon.options import Options
from swarm.daemon.page import routes as page_routes
from swarm.daemon.rpc import PATHS, Rpc
from swarm.daemon.session import Session, open_session
from swarm.daemon.state import StateDirectory
from swarm.daemon.watch import WatchFolder
from swarm.events import Warned
from swarm.node import Node, open_node
from swarm.torrent.disk import threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a daemon is started with.  ``given`` names the options that were said explicitly."""

    config: Config
    state: Path
    options: Options
    given: Collection[str]
    addresses: Sequence[Address]
    user: str | None = None
    password: str | None = None
    host_names: Collection[str] = ()
    """By which it may be asked without a password, beside localhost and addresses."""
    watch: Path | None = None


Accompany = Callable[[Session], AbstractAsyncContextManager[object]]


async def run_daemon(plan: Plan, notifier: Notifier, accompany: Accompany, log: Callable[[Node], Log]) -> None:
    """Run until the session is asked to close.  ``accompany`` is entered with the session, ``log`` with the node.

    Raises `AlreadyRunningError`, and SwarmError for a port or address that cannot be had.
    """
    with StateDirectory(plan.state).locked():
        async with open_node(plan.config) as node, log(node):
            listeners = [listener for address in plan.addresses for listener in await open_listeners(address)]
            async with (
                open_session(node, plan.state, plan.options, given=plan.given) as session,
                trio.open_nursery() as nursery,
                accompany(session),
            ):
                held = SessionId()
                rpc = Rpc(session, held)
                access = Access(held, user=plan.user, password=plan.password, names=plan.host_names)
                routes = page_routes(session) | dict.fromkeys(PATHS, rpc.answer)
                await nursery.start(serve, listeners, routes, access)
                if plan.watch is not None:
                    nursery.start_soon(_folder(plan.watch, session).run)
                notifier.ready()
                nursery.start_soon(notifier.run, lambda: summary(session))
                await session.close_requested.wait()
                notifier.stopping()
                nursery.cancel_scope.cancel()


Log = AbstractAsyncContextManager[object]


def summary(session: Session) -> str:
    """``3 torrents: 1 downloading, 2 seeding; port 51413``."""
    counts: dict[str, int] = {}
    words = {"download": "downloading", "seed": "seeding", "check": "checking"}
    for entry in session.entries.values():
        word = words.get(entry.status, "stopped" if entry.status == "stopped" else "waiting")
        counts[word] = counts.get(word, 0) + 1
    total = len(session.entries)
    states = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
    where = f"port {session.node.port}" if session.node.port else "offline"
    return f"{total} torrent{'' if total == 1 else 's'}{': ' if states else ''}{states}; {where}"


def _folder(directory: Path, session: Session) -> WatchFolder:
    return WatchFolder(directory, session.add, lambda text: session.node.emit(Warned(text)), threads(1))
