"""Which torrents run, and with what limits: an `Entry` gets its `Torrent`, and loses it again.

Whoever wants that to change says so in the entry and calls `Runs.arrange`, which decides at once; carrying it out may
take longer.  What may run is `swarm.daemon.policy`; why it should not, everybody else's business.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import trio

from swarm.daemon.entry import Entry, Wishes
from swarm.daemon.options import Options
from swarm.daemon.policy import allowed
from swarm.daemon.roster import Roster
from swarm.daemon.tally import Tally
from swarm.daemon.wanted import select
from swarm.errors import StorageError
from swarm.node import Node
from swarm.peer import PeerConnection
from swarm.torrent.metainfo import Tiers
from swarm.torrent.room import MADE_ROOM

SHARE = 3.0
"""How many times as much one has of the limits of all as who has the next lower priority."""

STARTS_AT_ONCE = 16
"""Torrents started before others have their turn."""


class Runs:
    """What runs on ``node``, of the torrents in ``roster``."""

    def __init__(self, node: Node, options: Options, roster: Roster, tally: Tally, nursery: trio.Nursery) -> None:
        self.node = node
        self.options = options
        """Changed by `apply` only."""
        self._roster = roster
        self._tally = tally
        self._nursery = nursery
        self._lowest = 0
        self.apply()

    # -- what runs --------------------------------------------------------------------------------------------------

    def arrange(self, changed: Entry | None = None) -> None:
        """Have those run that may, and no others.  Only ``changed`` is another than before: it may concern no others,
        and then thousands that change one after the other do not cost their square."""
        options = self.options
        queued = options.download_queue_enabled or options.seed_queue_enabled
        if changed is not None and not queued and changed.wishes.bandwidth_priority >= self._lowest:
            if self._roster.holds(changed):
                changed.allowed = changed.wants_to_run
                self._settle(changed)
            return
        for entry in self._allow():
            self._settle(entry)

    async def arrange_first(self) -> None:
        """The same for all at the start of the daemon, a few at a time."""
        for count, entry in enumerate(tuple(self._allow())):
            self._settle(entry)
            if count % STARTS_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    def restart(self, entry: Entry) -> None:
        """Stop it, in the background, even if it is to run then; for a torrent that has failed."""
        self._nursery.start_soon(self._carry_out, entry, True)

    def _allow(self) -> Sequence[Entry]:
        """Decide who may run; all, in the order of the queue."""
        queue = self._roster.queue
        may = allowed(queue, self.options, trio.current_time())
        for entry in queue:
            entry.allowed = entry in may
        lowest = min((entry.wishes.bandwidth_priority for entry in may), default=0)
        if lowest != self._lowest:
            self._lowest = lowest
            for entry in queue:
                self._apply_share(entry)
        return queue

    def _settle(self, entry: Entry) -> None:
        if entry.lock.locked() or entry.job is not None:
            return  # whoever has it looks at its end
        if entry.allowed and entry.torrent is None:
            self._run(entry)
        elif not entry.allowed and entry.torrent is not None:
            self._nursery.start_soon(self._carry_out, entry)

    async def _carry_out(self, entry: Entry, anew: bool = False) -> None:
        """Bring it to what is wished by now; ``anew`` stops it even if it is to run."""
        async with entry.lock:
            while entry.job is None:
                if entry.torrent is not None and (anew or not entry.allowed):
                    anew = False
                    await self.halt(entry)
                elif entry.torrent is None and entry.allowed:
                    self._run(entry)
                else:
                    return

    def _run(self, entry: Entry) -> None:
        wishes = entry.wishes
        entry.torrent = torrent = self.node.add(entry.source, entry.directory, select=select(entry), peers=entry.peers)
        self._tally.started(entry)
        if wishes.high or wishes.low:
            torrent.choose(select(entry), high=wishes.high, low=wishes.low)
        self._apply_limits(entry)
        if self._default_trackers(entry):
            self._nursery.start_soon(self._announce_to, entry)

    async def halt(self, entry: Entry) -> None:
        """Take it out of the node; called with its lock held.  What it counted and has is kept."""
        torrent = entry.torrent
        if torrent is None:
            return
        try:
            await self.node.remove(torrent)
        except StorageError as error:
            entry.problem = entry.problem or str(error)
        self._tally.ended(entry)
        if torrent.have is not None:
            entry.kept_have = torrent.have.copy()
        entry.original = entry.metainfo or entry.original
        entry.torrent = None

    # -- what holds for those that run ------------------------------------------------------------------------------

    def apply(self, **changes: Any) -> None:
        """Replace some of the options, by name; they hold at once."""
        self.options = options = replace(self.options, **changes)
        if options.alternative_rates:
            self.node.set_rates(_limit(options.alternative_download_rate), _limit(options.alternative_upload_rate))
        else:
            self.node.set_rates(
                _limit(options.download_rate, options.download_limited),
                _limit(options.upload_rate, options.upload_limited),
            )
        self.node.max_connections = options.peer_limit
        running = [entry.torrent for entry in self._roster.entries.values() if entry.torrent is not None]
        _part([peer for torrent in running for peer in torrent.connections], options.peer_limit)
        for entry in self._roster.entries.values():
            self._apply_limits(entry)

    def apply_wishes(self, entry: Entry, before: Wishes) -> None:
        """The user wishes something else of it than ``before``."""
        wishes, torrent = entry.wishes, entry.torrent
        if torrent is None:
            return
        self._apply_limits(entry)
        if (wishes.unwanted, wishes.high, wishes.low) != (before.unwanted, before.high, before.low):
            torrent.choose(select(entry), high=wishes.high, low=wishes.low)
        if wishes.trackers != before.trackers:
            self._nursery.start_soon(self._announce_to, entry)

    def learnt_metadata(self, entry: Entry) -> None:
        """It is known now whether it is private."""
        if self._default_trackers(entry):
            self._nursery.start_soon(self._announce_to, entry)

    def _apply_limits(self, entry: Entry) -> None:
        wishes, torrent = entry.wishes, entry.torrent
        if torrent is not None:
            torrent.set_rates(
                _limit(wishes.download_rate, wishes.download_limited),
                _limit(wishes.upload_rate, wishes.upload_limited),
                alone=not wishes.honours_session_limits,
            )
            self._apply_share(entry)
            limit = self.options.peer_limit_per_torrent if wishes.peer_limit is None else wishes.peer_limit
            torrent.admission.max_peers = limit
            _part(torrent.connections, limit)

    def _apply_share(self, entry: Entry) -> None:
        """What it has of the limits of all, by its priority: those who run with the lowest have the least."""
        if entry.torrent is not None:
            entry.torrent.set_share(SHARE ** max(entry.wishes.bandwidth_priority - self._lowest, 0))

    async def _announce_to(self, entry: Entry) -> None:
        if entry.torrent is not None:
            await entry.torrent.set_trackers(entry.trackers + self._default_trackers(entry))

    def _default_trackers(self, entry: Entry) -> Tiers:
        public = entry.metainfo is not None and not entry.metainfo.private
        return self.options.default_trackers if public else ()


def _limit(rate: int, limited: bool = True) -> int:
    """For the node, where 0 stands for no limit; a limit of 0 lets (nearly) nothing pass, as with Transmission."""
    return max(rate, 1) if limited else 0


def _part(peers: Collection[PeerConnection], most: int) -> None:
    """Of more connections than there may be, end those that move least, the youngest first."""
    standing = [peer for peer in peers if not peer.closing]
    if len(standing) > most:
        standing.sort(key=lambda peer: (peer.rate_down + peer.rate_up, -peer.connected_at))
        for peer in standing[: len(standing) - most]:
            peer.close(MADE_ROOM)
