"""Connect to whichever address of a name answers first (RFC 8305).

For servers; peers are reached by `swarm.connect`.  Resolves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest

import trio

from swarm.endpoint import Endpoint
from swarm.net.network import Network, Stream

HEAD_START = 0.25
"""Seconds an attempt has for itself before the next address is tried as well (RFC 8305 §5)."""


def interleave_families(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """IPv6 and IPv4 in turn, IPv6 first, each in the resolver's order (RFC 8305 §4); duplicates dropped."""
    unique = list(dict.fromkeys(endpoints))
    v6 = [endpoint for endpoint in unique if endpoint.is_ipv6]
    v4 = [endpoint for endpoint in unique if not endpoint.is_ipv6]
    return [endpoint for pair in zip_longest(v6, v4) for endpoint in pair if endpoint is not None]


async def dial_first(network: Network, endpoints: Sequence[Endpoint]) -> Stream:
    """A stream to the first of ``endpoints`` that accepts; the other attempts are cancelled and closed.

    Each begins when the one before has failed or had its head start.  When all fail, raises the first one's OSError.
    ``endpoints`` is not empty.
    """
    errors: list[OSError | None] = [None] * len(endpoints)
    winner: Stream | None = None

    async def attempt(endpoint: Endpoint, index: int, over: trio.Event) -> None:
        nonlocal winner
        try:
            stream = await network.dial_tcp(endpoint)
        except OSError as error:
            errors[index] = error
            over.set()
            return
        if winner is not None:
            stream.abort()
            return
        winner = stream
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for index, endpoint in enumerate(endpoints):
                over = trio.Event()
                nursery.start_soon(attempt, endpoint, index, over)
                with trio.move_on_after(HEAD_START):
                    await over.wait()
    except BaseException:
        if winner is not None:
            winner.abort()
        raise
    if winner is not None:
        return winner
    first = next(error for error in errors if error is not None)
    raise first
