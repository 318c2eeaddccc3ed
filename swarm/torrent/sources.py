"""Where the peers of one torrent come from while it runs: trackers, DHT, local network (PEX comes by itself)."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.discover.dht_source import DhtTorrent
from swarm.discover.lsd import LocalSource
from swarm.discover.trackers import Counters, Found, TrackerSource, TrackerStatus
from swarm.torrent.lent import Lent

Tiers = Sequence[Sequence[str]]
Nodes = Sequence[tuple[str, int]]


class Sources:
    """The sources of one torrent; none is asked before `start`, and none but trackers once it is `private`."""

    def __init__(self, info_hash: bytes, lent: Lent, found: Found, counters: Counters) -> None:
        self._info_hash = info_hash
        self._lent = lent
        self._found = found
        self._counters = counters
        self._trackers: TrackerSource | None = None
        self._dht: DhtTorrent | None = None
        self._local: LocalSource | None = None
        self._private = False
        self._instead: Tiers | None = None

    def start(self, trackers: Tiers, nodes: Nodes = (), *, private: bool) -> None:
        """Ask for peers from now on.  Started already, for a magnet link, it takes in what the metadata added."""
        lent = self._lent
        trackers = trackers if self._instead is None else self._instead
        if private:
            self.become_private()
        if self._trackers is not None:
            for tier in trackers:
                self._trackers.add_tier(tier)
        elif lent.config.trackers:
            self._trackers = lent.announcer.add(
                trackers,
                info_hash=self._info_hash,
                peer_id=lent.peer_id,
                counters=self._counters,
                found=self._found,
            )
        if private:
            return
        if lent.dht is not None and self._dht is None:
            self._dht = lent.dht.add(self._info_hash, self._found, nodes=nodes)
        if lent.local is not None and self._local is None:
            self._local = lent.local.add(self._info_hash, self._found)

    async def set_trackers(self, tiers: Tiers) -> None:
        """Ask these trackers instead of the torrent's own.  Those left are told so, in the caller's cancel scope."""
        self._instead = tiers
        if self._trackers is not None:
            await self._trackers.replace(tiers)

    def ask_again(self) -> None:
        """The user asks for peers: whatever failed is tried again, too."""
        if self._trackers is not None:
            self._trackers.announce_again()
        self.want_more()

    async def stop(self) -> None:
        """Ask nobody any more.  Trackers are told, for as long as the caller's cancel scope allows."""
        self._leave_public()
        trackers, self._trackers = self._trackers, None
        if trackers is not None:
            await trackers.stop()

    def become_private(self) -> None:
        """From now on ask, and tell, trackers only (BEP 27)."""
        self._private = True
        self._leave_public()

    def _leave_public(self) -> None:
        dht, self._dht = self._dht, None
        if dht is not None:
            dht.stop()
        local, self._local = self._local, None
        if local is not None:
            local.stop()

    def want_more(self) -> None:
        """We are short of peers: ask again as soon as each source allows."""
        if self._trackers is not None:
            self._trackers.want_more()
        if self._dht is not None:
            self._dht.want_more()

    def completed(self) -> None:
        """The download has ended."""
        if self._trackers is not None:
            self._trackers.completed()

    def tracker_statuses(self) -> tuple[TrackerStatus, ...]:
        return self._trackers.statistics() if self._trackers is not None else ()

    def why(self, named: bool) -> list[str]:
        """What became of asking, a sentence for each; ``named`` is whether the torrent names any tracker."""
        reasons = [_why_tracker(status) for status in self.tracker_statuses()]
        if not named:
            reasons.append("the torrent names no tracker")
        elif not self._lent.config.trackers:
            reasons.append("trackers are switched off")
        if self._dht is not None:
            reasons.append(self._dht.statistics().why())
        elif self._lent.dht is None:
            reasons.append("the DHT is switched off")
        elif self._private:
            reasons.append("the torrent is private: only its trackers are asked")
        return reasons


def _why_tracker(status: TrackerStatus) -> str:
    if status.last_error:
        return f"tracker {status.url}: {status.last_error}"
    if status.last_peers is not None:
        return f"tracker {status.url}: answered with {status.last_peers} peers"
    return f"tracker {status.url}: no answer yet"
