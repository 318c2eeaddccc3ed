"""What the page shows, as rows in tables (`swarm.daemon.changes`): the torrents, and how peers are reached and why not.

Made of the session's entries and the node's statistics document, cut down to what a person looks at: its size is
bounded whatever peers and torrents are called and however many there are.  Numbers that always move (ages, leases,
counts of bytes) are made coarse or absolute, so that a row that says nothing new to a reader is not sent again.

    torrents   by id        {name, hash, status, error, done, total, checked, down, up, peers, uploaded, downloaded}
    paths      "utp out"    {attempted, succeeded, failed, p50, p90, octaves, down, up}
    peers      "hash end"   {torrent, endpoint, client, path, direction, connected, cause, failures, sources, …}
    now        by name      node, verdict, advice, totals, nat, reachability, gateway, punch, dht, sources, missed
    words      by name      paths, reasons, causes, methods, gateway: never changes

What comes from strangers is shortened and made printable here; to the page it is text and nothing else.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

import trio

from swarm.daemon.changes import State
from swarm.daemon.words import CAUSE_WORDS, PATH_WORDS, REASON_WORDS, cause_of, verdict
from swarm.gateway.report import METHOD_WORDS
from swarm.gateway.report import REASON_WORDS as GATEWAY_WORDS
from swarm.torrent.metainfo import Metainfo

Document = Mapping[str, Any]

MAX_NAME = 200
MAX_CLIENT = 60
MAX_SENTENCE = 400
"""Characters shown of what strangers wrote."""

MAX_TORRENTS = 5000
"""Beyond it the latest are left out; the totals count all."""

MAX_CONNECTED = 200
MAX_UNREACHED = 300
"""Peers shown; the totals count all."""

MAX_REASONS = 8
"""Reasons shown of each path, the most frequent ones."""

WINDOW = 5.0
"""Seconds over which a rate is averaged."""

JOINERS = "\u200c\u200d"
"""Unprintable by Unicode's word, and part of ordinary Persian, Hindi and emoji."""


class Shown(Protocol):
    """What of a `swarm.daemon.entry.Entry` is looked at."""

    @property
    def info_hash(self) -> bytes: ...
    @property
    def name(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def error(self) -> str | None: ...
    @property
    def checking(self) -> tuple[int, int]:
        """While it is verified: pieces looked at, of how many."""

    @property
    def metainfo(self) -> Metainfo | None: ...
    @property
    def bytes_had(self) -> int: ...
    @property
    def uploaded(self) -> int: ...
    @property
    def downloaded(self) -> int: ...


class View:
    """``entries``, ``document`` and ``advice`` tell how the session and its node stand; ``wall`` is in Unix seconds."""

    def __init__(
        self,
        entries: Callable[[], Mapping[int, Shown]],
        document: Callable[[], Document],
        advice: Callable[[], Iterable[str]],
        wall: Callable[[], float],
    ) -> None:
        self._entries = entries
        self._document = document
        self._advice = advice
        self._wall = wall
        self._rates = Rates()
        self._opened_at: float | None = None  # Unix time

    def look(self) -> State:
        """How things stand now."""
        entries, document = self._entries(), self._document()
        if self._opened_at is None:
            self._opened_at = self._wall() - document["node"]["uptime"]
        self._rates.sample(trio.current_time(), entries)
        return {
            "torrents": dict(self._torrents(entries, document)),
            "paths": dict(_paths(document["paths"])),
            "peers": dict(self._peers(document)),
            "now": self._now(entries, document),
            "words": WORDS,
        }

    # -- torrents ---------------------------------------------------------------------------------------------------

    def _torrents(self, entries: Mapping[int, Shown], document: Document) -> Iterator[tuple[str, Any]]:
        running = {each["info_hash"]: each for each in document["torrents"]}
        for number, entry in islice(entries.items(), MAX_TORRENTS):
            known = running.get(entry.info_hash.hex())
            done, total = (known["done"], known["total"]) if known is not None else _kept_bytes(entry)
            down, up = self._rates.of(number)
            yield (
                str(number),
                {
                    "name": shown(entry.name, MAX_NAME),
                    "hash": entry.info_hash.hex(),
                    "status": entry.status,
                    "error": None if entry.error is None else shown(entry.error, MAX_SENTENCE),
                    "done": total if done == total else coarse(done),
                    "total": total,
                    "checked": entry.checking if entry.checking[1] else None,
                    "down": coarse(down),
                    "up": coarse(up),
                    "peers": 0 if known is None else known["peers"],
                    "uploaded": coarse(entry.uploaded),
                    "downloaded": coarse(entry.downloaded),
                },
            )

    # -- the node ---------------------------------------------------------------------------------------------------

    def _now(self, entries: Mapping[int, Shown], document: Document) -> dict[str, Any]:
        judged = verdict(document)
        node, peers = document["node"], document["peers"]
        missed = Counter(cause for peer in peers if (cause := _cause(peer)) is not None)
        down, up = self._rates.together()
        return {
            "node": {
                "version": node["version"],
                "listen": node["listen"],
                "opened_at": round(self._opened_at or 0.0),
            },
            "verdict": {"title": judged.title, "tone": judged.tone, "sentences": list(judged.sentences)},
            "advice": [shown(sentence, MAX_SENTENCE) for sentence in self._advice()],
            "totals": {
                "torrents": len(entries),
                "down": coarse(down),
                "up": coarse(up),
                "connected": sum(peer["connected"] for peer in peers),
                "reached": sum(peer["path"] is not None for peer in peers),
                "missed": missed.total(),
            },
            "missed": dict(missed.most_common()),
            "nat": {family: None if each is None else _nat(each) for family, each in document["nat"].items()},
            "reachability": document["reachability"],
            "gateway": [_lease(lease) for lease in document["gateway"]],
            "punch": {role: _punch(counts) for role, counts in document["punch"].items()},
            "dht": {
                family: None if each is None else {"nodes": each["nodes"]} for family, each in document["dht"].items()
            },
            "sources": document["sources"],
        }

    def _peers(self, document: Document) -> Iterator[tuple[str, Any]]:
        peers = document["peers"]
        connected = (peer for peer in peers if peer["connected"])
        unreached = sorted((peer for peer in peers if _cause(peer) is not None), key=lambda peer: peer["since"])
        for peer in (*islice(connected, MAX_CONNECTED), *unreached[:MAX_UNREACHED]):
            yield f"{peer['info_hash']} {peer['endpoint']}", self._peer(peer, document["node"]["uptime"])

    def _peer(self, peer: Document, uptime: float) -> dict[str, Any]:
        assert self._opened_at is not None
        return {
            "torrent": peer["info_hash"],
            "endpoint": peer["endpoint"],
            "client": shown(peer["client"], MAX_CLIENT),
            "path": peer["path"],
            "direction": peer["direction"],
            "connected": peer["connected"],
            "cause": _cause(peer),
            "failures": peer["failures"],
            "sources": peer["sources"],
            "down": coarse(peer["bytes_down"]),
            "up": coarse(peer["bytes_up"]),
            "seconds": peer["seconds_to_connect"],
            "rtt": None if peer["rtt"] is None else round(peer["rtt"], 3),
            "at": round(self._opened_at + uptime - peer["since"]),
        }


class Rates:
    """Bytes per second of each torrent over the last WINDOW seconds, from counts that only grow."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, dict[int, tuple[int, int]]]] = deque()
        """When, and the bytes down and up of each torrent then."""

    def sample(self, now: float, entries: Mapping[int, Shown]) -> None:
        samples = self._samples
        while samples and ((samples[0][0] < now - WINDOW and len(samples) > 2) or samples[-1][0] < now - WINDOW):
            samples.popleft()
        samples.append((now, {number: (entry.downloaded, entry.uploaded) for number, entry in entries.items()}))

    def of(self, number: int) -> tuple[float, float]:
        """Down and up: of one that has just come, since it came."""
        now, counts = self._samples[-1]
        then, before = next(sample for sample in self._samples if number in sample[1])
        if now <= then:
            return 0.0, 0.0
        (down, up), (down_before, up_before) = counts[number], before[number]
        return max(0, down - down_before) / (now - then), max(0, up - up_before) / (now - then)

    def together(self) -> tuple[float, float]:
        """Of all torrents."""
        rates = [self.of(number) for number in self._samples[-1][1]]
        return sum(down for down, _ in rates), sum(up for _, up in rates)


def _paths(paths: Document) -> Iterator[tuple[str, Any]]:
    """Those that were tried."""
    for path, directions in paths.items():
        for direction, counts in directions.items():
            if counts["attempted"] or counts["bytes_down"] or counts["bytes_up"]:
                seconds = counts["connect_seconds"]
                yield (
                    f"{path} {direction}",
                    {
                        "attempted": counts["attempted"],
                        "succeeded": counts["succeeded"],
                        "failed": dict(islice(counts["failed"].items(), MAX_REASONS)),
                        "p50": seconds["p50"],
                        "p90": seconds["p90"],
                        "octaves": seconds["octaves"],
                        "down": coarse(counts["bytes_down"]),
                        "up": coarse(counts["bytes_up"]),
                    },
                )


def _nat(nat: Document) -> dict[str, Any]:
    return {**nat, "evidence": [shown(sentence, MAX_SENTENCE) for sentence in nat["evidence"]]}


def _lease(lease: Document) -> dict[str, Any]:
    """Its end in whole minutes: it moves all the time."""
    left = lease["expires_in"]
    return {
        **{key: lease[key] for key in ("method", "transport", "gateway", "internal", "external", "error")},
        "minutes": None if left is None else max(0, -int(-left // 60)),
    }


def _punch(counts: Document) -> dict[str, Any]:
    return {key: counts[key] for key in ("asked", "connected", "by_nat")} | {
        "errors": dict(islice(counts["errors"].items(), MAX_REASONS))
    }


def _cause(peer: Document) -> str | None:
    """Why a peer was never reached; None for one that was."""
    return cause_of(peer["failures"]) if peer["path"] is None else None


def _kept_bytes(entry: Shown) -> tuple[int, int]:
    """Of a torrent that does not run: what is verified, of its whole size; 0 of 0 while its metadata is missing."""
    return entry.bytes_had, 0 if entry.metainfo is None else entry.metainfo.total_size


def coarse(number: float) -> int:
    """Rounded down to four digits."""
    whole = int(number)
    scale = int(f"1{'0' * (len(str(whole)) - 4)}")
    return whole // scale * scale


def shown(text: str, most: int) -> str:
    """``text`` in at most ``most`` characters, with control and direction characters escaped, so that it looks as it
    is; an escape is longer than what it stands for.
    """
    if len(text) > most:
        text = text[: most - 1] + "…"
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in JOINERS else char.encode("unicode_escape").decode() for char in text
    )


WORDS = {
    "paths": {path: list(words) for path, words in PATH_WORDS.items()},
    "reasons": REASON_WORDS,
    "causes": {cause: list(words) for cause, words in CAUSE_WORDS.items()},
    "methods": dict(METHOD_WORDS),
    "gateway": GATEWAY_WORDS,
}
