"""``/metrics``: the node's statistics and the daemon's torrents in the text form that Prometheus scrapes.

What `swarm.stats.prometheus` says of the node, and beside it what only a session knows: torrents by how they stand, and
the bytes of each over all its runs.  The number of series is bounded: MAX_TORRENTS torrents have series of their own,
the rest is in the sums; peers have none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, get_args

from swarm.daemon.entry import Status
from swarm.daemon.http import Request, Response, text
from swarm.daemon.view import MAX_NAME, Shown, shown
from swarm.stats.prometheus import CONTENT_TYPE, Metric, Sample, exposition, prometheus_text

MAX_TORRENTS = 1000
"""Torrents with series of their own, those that were added first."""


class Metrics:
    """``entries`` and ``document`` tell how the session and its node stand."""

    def __init__(self, entries: Callable[[], Mapping[int, Shown]], document: Callable[[], Mapping[str, Any]]) -> None:
        self._entries = entries
        self._document = document

    async def answer(self, request: Request) -> Response:
        """The route."""
        if request.method != "GET":
            return text(405, headers=[("Allow", "GET, HEAD")])
        headers = [("Content-Type", CONTENT_TYPE), ("Cache-Control", "no-store")]
        return Response(200, headers, self.text().encode())

    def text(self) -> str:
        """All lines, now."""
        entries = self._entries()
        told = {entry.info_hash.hex(): shown(entry.name, MAX_NAME) for entry in islice(entries.values(), MAX_TORRENTS)}
        document = dict(self._document())
        document["torrents"] = [
            {**each, "name": told[each["info_hash"]]} for each in document["torrents"] if each["info_hash"] in told
        ]
        return prometheus_text(document) + exposition(_of_the_session(entries))


def _of_the_session(entries: Mapping[int, Shown]) -> Iterator[Metric]:
    statuses = Counter(entry.status for entry in entries.values())
    yield Metric(
        "torrents",
        "gauge",
        "By how they stand.",
        [Sample({"status": each}, statuses[each]) for each in get_args(Status)],
    )
    failed = sum(entry.error is not None for entry in entries.values())
    yield Metric("torrents_failed", "gauge", "That have stopped because of an error.", [Sample({}, failed)])
    own = [
        ({"info_hash": entry.info_hash.hex(), "name": shown(entry.name, MAX_NAME)}, entry)
        for entry in islice(entries.values(), MAX_TORRENTS)
    ]
    for name, attribute, help_text in (
        ("torrent_received_bytes_total", "downloaded", "Payload received, in all runs."),
        ("torrent_sent_bytes_total", "uploaded", "Payload sent, in all runs."),
    ):
        yield Metric(name, "counter", help_text, [Sample(labels, getattr(entry, attribute)) for labels, entry in own])
