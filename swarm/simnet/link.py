"""Links: delay, bandwidth with its queue, loss, jitter, duplication and MTU, one `Line` for each direction.

A line that has only a delay passes runs whole; every other one cuts them and treats packets one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarm.simnet.packet import Packet, TcpSegment

if TYPE_CHECKING:
    from swarm.simnet.internet import Internet


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """How one direction of an access link behaves."""

    delay: float | None = None
    """Seconds one way.  None: drawn once from the internet's dice, so that links differ."""

    bandwidth: float | None = None
    """Bytes per second, headers included.  None: unlimited."""

    queue: int = 256 << 10
    """Bytes that wait for the bottleneck; what comes on top is dropped.  Matters only with ``bandwidth``."""

    loss: float = 0.0
    """Probability that a packet vanishes."""

    jitter: float = 0.0
    """Seconds: each packet is delayed by a uniform part of it, so packets closer together than that are reordered."""

    duplicate: float = 0.0
    """Probability that a packet arrives twice."""

    mtu: int = 1500
    """Bytes, IP header included; larger packets with DF set vanish (no ICMP comes back)."""


class Line:
    """One direction of one link, at work.

    ``drop_if`` is asked for each single packet and drops what it returns true for: surgical loss for tests.
    ``up`` set to False drops everything, like a pulled cable.
    """

    __slots__ = ("_busy_until", "_drop_if", "_plain", "bytes", "delay", "internet", "link", "name", "packets", "up")

    def __init__(self, internet: Internet, name: str, link: Link) -> None:
        self.internet = internet
        self.name = name
        self.up = True
        self.packets = 0
        self.bytes = 0
        self._busy_until = 0.0
        self._drop_if: Callable[[Packet], bool] | None = None
        self.delay = 0.0
        self.change(link)

    def change(self, link: Link) -> None:
        """Behave differently from now on; what is under way is not touched."""
        self.link = link
        self.delay = self.internet.draw_delay() if link.delay is None else link.delay
        self._set_plain()

    @property
    def drop_if(self) -> Callable[[Packet], bool] | None:
        return self._drop_if

    @drop_if.setter
    def drop_if(self, predicate: Callable[[Packet], bool] | None) -> None:
        self._drop_if = predicate
        self._set_plain()

    @property
    def backlog(self) -> float:
        """Bytes that wait for the bottleneck now."""
        if self.link.bandwidth is None:
            return 0.0
        return max(0.0, self._busy_until - self.internet.now) * self.link.bandwidth

    def seconds_to_drain(self, size: int) -> float:
        """How long until at most ``size`` bytes wait."""
        return 0.0 if self.link.bandwidth is None else max(0.0, (self.backlog - size) / self.link.bandwidth)

    def carry(self, packet: Packet, arrive: Callable[[Packet], None]) -> None:
        """Take a packet or a run and call ``arrive`` for what comes out, when it does."""
        if not self.up:
            self.internet.drop(packet, "link-down", self.name)
        elif packet.largest > self.link.mtu and not packet.fragment:
            self.internet.drop(packet, "too-big", self.name)
        else:
            if isinstance(packet, TcpSegment) and packet.syn:
                packet.mss = min(packet.mss, self.link.mtu - packet.largest)
            self.bytes += len(packet.payload)
            if self._plain:
                self.packets += packet.count
                self.internet.call_later(self.delay, arrive, packet)
            else:
                for single in packet.cut():
                    self._carry_single(single, arrive)

    def _carry_single(self, packet: Packet, arrive: Callable[[Packet], None]) -> None:
        link = self.link
        dice = self.internet.dice
        self.packets += 1
        if self._drop_if is not None and self._drop_if(packet):
            self.internet.drop(packet, "dropped", self.name)
            return
        delay = self.delay
        if link.bandwidth is not None:
            size = packet.largest
            if self.backlog + size > link.queue:
                self.internet.drop(packet, "queue-full", self.name)
                return
            now = self.internet.now
            self._busy_until = max(now, self._busy_until) + size / link.bandwidth
            delay += self._busy_until - now
        if link.loss and dice.random() < link.loss:
            self.internet.drop(packet, "lost", self.name)
            return
        if link.duplicate and dice.random() < link.duplicate:
            self.internet.call_later(delay + dice.random() * link.jitter, arrive, packet.copy())
        if link.jitter:
            delay += dice.random() * link.jitter
        self.internet.call_later(delay, arrive, packet)

    def _set_plain(self) -> None:
        link = self.link
        effects = link.bandwidth is not None or link.loss or link.jitter or link.duplicate or self._drop_if is not None
        self._plain = not effects
