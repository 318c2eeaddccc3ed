"""How a DHT node behaves: every tunable that is not a number of the protocol."""

from __future__ import annotations

from dataclasses import dataclass

from dht.datagram import Address


@dataclass(frozen=True, slots=True)
class DhtConfig:
    """Frozen; give None for a rate to lift it."""

    routers: tuple[Address, ...] = ()
    """Nodes to begin with, already resolved.  Once we know others, these are not kept in the table."""
    read_only: bool = False
    """Ask, but answer nobody, and say so (BEP 43): for nodes that cannot be reached, or must not be woken."""
    external_host: str | None = None
    """Our address as others see it, where it is known beforehand: the node id follows from it (BEP 42)."""
    datagrams_per_second_per_host: float | None = 10.0
    """Queries that one host (IPv6: one /64) may send; a burst of ten times as many is let through."""
    answer_bytes_per_second: float | None = 50_000.0
    """What all answers together may cost, with a burst of two seconds' worth."""
    amplification: float = 4.0
    """How many times larger than its query an answer may be while the asker has not proved its address."""
    max_in_flight: int = 128
    """Queries of ours that wait for an answer; the rest queues."""
    max_searches: int = 16
    """Lookups under way at once; thousands may queue behind them."""
