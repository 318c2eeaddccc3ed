"""Whom to unchoke (BEP 3): tit for tat with an optimistic unchoke while leeching, turns by quota while seeding.

Every RECHOKE seconds the interested peers are ranked; in between only slots that fell free are filled, so that a peer
that becomes interested is served at once and nobody is choked and unchoked in quick succession (fibrillation).

* Leeching: the fastest to us, as many as there are regular slots.  Snubbed peers (they keep us waiting for a minute)
  get no regular slot; slots that nobody earned are optimistic ones, which is how BEP 3 wants anti-snubbing to work.
* Seeding: whoever has a slot keeps it until it got SEED_QUOTA bytes and a minute, then those that waited longest; among
  equals the ones that take data fastest (libtorrent's "round robin").
* One slot is optimistic: it goes round every OPTIMISTIC seconds, newcomers three times as likely.
* A relayed peer costs a third party's bandwidth: it is unchoked only where a slot would stay empty.

Pure decisions from what the caller measured: no messages, no clock, no dice of its own.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

RECHOKE = 10.0
"""Seconds between rankings (BEP 3)."""

OPTIMISTIC = 30.0
"""Seconds that an optimistic unchoke lasts (BEP 3)."""

NEWCOMER = 60.0
"""Seconds after connecting in which a peer is NEWCOMER_WEIGHT times as likely to be the optimistic one."""

NEWCOMER_WEIGHT = 3

SEED_QUOTA = 20 << 20
SEED_MINUTE = 60.0
"""A peer that got this many bytes and this many seconds of a slot makes place for those that wait."""

MAX_SLOTS = 40
"""The most that spare bandwidth opens: beyond it each peer gets too little to be useful soon."""

SPARE = 0.9
"""The share of the upload limit, or of the best rate seen, below which one more slot is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    """What the choker sees of a peer.  Rates in payload bytes per second, times in seconds of the same clock."""

    key: Hashable
    interested: bool
    connected_at: float
    rate_down: float = 0.0
    """From the peer to us."""
    rate_up: float = 0.0
    """From us to the peer."""
    bytes_up: int = 0
    """Sent to the peer since it connected."""
    snubbed: bool = False
    relayed: bool = False


@dataclass(slots=True)
class _Turn:
    """A slot that a peer holds."""

    since: float
    bytes_up: int


class Choker:
    """The upload slots of one torrent: ``slots`` in all, the optimistic one included (0: `slots_for` the limit)."""

    __slots__ = (
        "_best_rate",
        "_extra",
        "_limit",
        "_next_ranking",
        "_optimistic",
        "_optimistic_until",
        "_rng",
        "_slots",
        "_turns",
        "_waiting_since",
    )

    def __init__(self, rng: random.Random, *, slots: int = 8, upload_limit: float = 0) -> None:
        self._rng = rng
        self.set_slots(slots, upload_limit)
        self._extra = 0
        self._best_rate = 0.0
        self._next_ranking = float("-inf")
        self._optimistic: Hashable | None = None
        self._optimistic_until = float("-inf")
        self._turns: dict[Hashable, _Turn] = {}
        self._waiting_since: dict[Hashable, float] = {}

    def set_slots(self, slots: int, upload_limit: float) -> None:
        """Change the number of slots and the limit in bytes per second (0: none); takes effect at the next ranking."""
        self._slots = slots if slots > 0 else slots_for(upload_limit)
        self._limit = upload_limit

    @property
    def slots(self) -> int:
        """How many may be unchoked now, those opened for spare bandwidth included."""
        return min(self._slots + self._extra, max(MAX_SLOTS, self._slots))

    @property
    def next_deadline(self) -> float:
        """When `decide` will rank again; call it then, and whenever a peer comes, goes or changes its interest."""
        return self._next_ranking

    def decide(self, peers: Sequence[PeerView], now: float, *, seeding: bool) -> frozenset[Hashable]:
        """Who is to be unchoked; everyone else is to be choked.  All of them are interested, at most ``slots``."""
        interested = {peer.key: peer for peer in peers if peer.interested}
        self._turns = {key: turn for key, turn in self._turns.items() if key in interested}
        self._waiting_since = {key: self._waiting_since.get(key, now) for key in interested if key not in self._turns}
        if self._optimistic not in self._turns:
            self._optimistic = None
        if now >= self._next_ranking:
            self._next_ranking = now + RECHOKE
            self._adapt(interested)
            kept = self._ranked(interested, now, seeding=seeding)
        else:
            kept = list(self._turns)
        self._grant(self._fill(kept, interested), interested, now)
        return frozenset(self._turns)

    def _ranked(self, interested: dict[Hashable, PeerView], now: float, *, seeding: bool) -> list[Hashable]:
        """Those that keep or get a slot by merit, and the optimistic one while its time lasts."""
        if now >= self._optimistic_until:
            self._optimistic = None
        regular = max(self.slots - 1, 0)
        candidates = [peer for key, peer in interested.items() if key != self._optimistic]
        if seeding:
            best = sorted(candidates, key=lambda peer: self._seeding_rank(peer, now))[:regular]
        else:
            earned = [peer for peer in candidates if peer.rate_down > 0 and not peer.snubbed and not peer.relayed]
            best = sorted(earned, key=lambda peer: -peer.rate_down)[:regular]
        kept = [peer.key for peer in best if not peer.relayed]
        if self._optimistic is not None:
            kept.append(self._optimistic)
        else:
            self._optimistic = self._draw(interested, kept, now)
            self._optimistic_until = now + OPTIMISTIC
            kept += [] if self._optimistic is None else [self._optimistic]
        return kept

    def _seeding_rank(self, peer: PeerView, now: float) -> tuple[bool, int, float, float]:
        turn = self._turns.get(peer.key)
        if turn is None:
            return peer.relayed, 1, self._waiting_since[peer.key], 0.0
        if now - turn.since >= SEED_MINUTE and peer.bytes_up - turn.bytes_up >= SEED_QUOTA:
            return peer.relayed, 2, -peer.rate_up, turn.since
        return peer.relayed, 0, -peer.rate_up, turn.since

    def _draw(self, interested: dict[Hashable, PeerView], kept: Iterable[Hashable], now: float) -> Hashable | None:
        """The next optimistic one, among those without a slot if there are any."""
        taken = set(kept)
        waiting = [peer for key, peer in interested.items() if key not in taken and not peer.relayed]
        choked = [peer for peer in waiting if peer.key not in self._turns] or waiting
        if not choked:
            return None
        weights = [NEWCOMER_WEIGHT if now - peer.connected_at < NEWCOMER else 1 for peer in choked]
        return self._rng.choices(choked, weights)[0].key

    def _fill(self, kept: list[Hashable], interested: dict[Hashable, PeerView]) -> list[Hashable]:
        """Give slots that are left over to those that had one, then to others at random, relayed peers last."""
        taken = set(kept)
        others = [peer for key, peer in interested.items() if key not in taken]
        self._rng.shuffle(others)
        others.sort(key=lambda peer: (peer.relayed, peer.snubbed, peer.key not in self._turns))
        return kept + [peer.key for peer in others[: max(self.slots - len(kept), 0)]]

    def _grant(self, chosen: Iterable[Hashable], interested: dict[Hashable, PeerView], now: float) -> None:
        turns = {key: self._turns.get(key) or _Turn(now, interested[key].bytes_up) for key in chosen}
        for key in self._turns.keys() - turns.keys():
            self._waiting_since[key] = now
        for key in turns:
            self._waiting_since.pop(key, None)
        self._turns = turns

    def _adapt(self, interested: dict[Hashable, PeerView]) -> None:
        """One more slot while all are taken and bandwidth is left over; one less when it is used up."""
        rate = sum(peer.rate_up for peer in interested.values())
        full = len(self._turns) >= self.slots
        reached = self._limit or self._best_rate
        if self._limit:
            spare = rate < SPARE * self._limit
        else:  # no limit is told, so a slot that did not raise the rate was one too many
            spare = rate * SPARE > reached
            self._best_rate = max(rate, self._best_rate * SPARE)
        if full and spare and len(interested) > self.slots:
            self._extra += 1
        elif self._extra and not spare:
            self._extra -= 1


def slots_for(upload_limit: float) -> int:
    """Slots for an upload limit in bytes per second, 0 for none: few, so that each peer gets a useful rate.

    The classic client's rule: about the square root of 0.6 times the limit in KiB/s, and no fewer than two.
    """
    if not upload_limit:
        return 8
    return min(max(int((upload_limit / 1024 * 0.6) ** 0.5), 2), MAX_SLOTS)
