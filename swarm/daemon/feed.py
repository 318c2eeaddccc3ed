"""The page's live feed: server-sent events (WHATWG HTML §9.2) with what changed, at most once a second.

Nothing is computed while nobody watches, and once for all who do.  There are no queues: a watcher that reads slowly is
asked again when it has taken what it was sent, and then gets what is new since; so a watcher costs a number, and the
message on its way.  An event's data is one line of JSON in ASCII:

    {"full": bool, "tables": {TABLE: {KEY: ROW | null}}}

``full`` says that what was sent before does not count; null, that a row is gone.  What is in the tables is
`swarm.daemon.view`'s.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable

import trio

from swarm.daemon.changes import Changes, State
from swarm.daemon.http import Header, Request, Response, text

INTERVAL = 1.0
"""Seconds between two looks, at least."""

MAX_SHARE = 0.05
"""Looks take no more than this part of the time: where one is dear, as with thousands of torrents, they are fewer."""

SIGN_OF_LIFE = 15.0
"""Seconds without news after which a watcher is sent an empty comment: else neither end would notice that the other is
gone."""

RETRY = 2000
"""Milliseconds after which a browser that lost the feed asks for it again."""

MAX_WATCHERS = 32
"""Beyond it one is told to come back later (503)."""

HEADERS: tuple[Header, ...] = (
    ("Content-Type", "text/event-stream"),
    ("Cache-Control", "no-store"),
    ("X-Accel-Buffering", "no"),  # nginx in front of us would else wait for more
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


class Feed:
    """``look`` tells how things stand; ``clock`` measures what that costs, in seconds."""

    def __init__(self, look: Callable[[], State], clock: Callable[[], float]) -> None:
        self.watchers = 0
        self._look = look
        self._clock = clock
        self._changes = Changes()
        self._next_look = 0.0
        self._message: tuple[int, int, bytes] = (0, 0, b"")  # the last that was made, and from which version to which

    async def answer(self, request: Request) -> Response:
        """The route."""
        if request.method != "GET":
            return text(405, headers=[("Allow", "GET, HEAD")])
        if self.watchers >= MAX_WATCHERS:
            return text(503, "Too many are watching already.", [("Retry-After", "30")])
        return Response(200, HEADERS, self._watch())

    async def _watch(self) -> AsyncGenerator[bytes, None]:
        """Never ends by itself."""
        self.watchers += 1
        try:
            version, said_at = 0, trio.current_time()
            yield b"retry: %d\n\n" % RETRY
            while True:
                # Whoever is behind need not wait for the next look.  A checkpoint in any case.
                await trio.sleep_until(self._next_look if version == self._changes.version else 0.0)
                now = trio.current_time()
                self._renew(now)
                if (message := self._since(version)) is not None:
                    version, said_at = self._changes.version, now
                    yield message
                elif now >= said_at + SIGN_OF_LIFE:
                    said_at = now
                    yield b":\n\n"
        finally:
            self.watchers -= 1

    def _renew(self, now: float) -> None:
        """Look, unless somebody else just did."""
        if now < self._next_look:
            return
        started = self._clock()
        self._changes.update(self._look())
        cost = self._clock() - started
        self._next_look = now + max(INTERVAL, cost / MAX_SHARE)

    def _since(self, version: int) -> bytes | None:
        """The event that brings a watcher up to date; None if it is."""
        changes = self._changes
        if version == changes.version:
            return None
        if self._message[:2] != (version, changes.version):
            patch = changes.since(version)
            body = json.dumps({"full": patch.full, "tables": patch.tables}, separators=(",", ":"), allow_nan=False)
            self._message = (version, changes.version, b"data: %s\n\n" % body.encode("ascii"))
        return self._message[2]
