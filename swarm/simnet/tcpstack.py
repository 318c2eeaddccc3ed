"""The TCP connections and listeners of one simulated host: to whom a segment goes, and RST for the rest."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol

from swarm.endpoint import Endpoint
from swarm.simnet.packet import TcpSegment, is_wildcard
from swarm.simnet.ports import free_port, os_error
from swarm.simnet.tcp import Connection, State

if TYPE_CHECKING:
    from swarm.simnet.host import Host


class TcpStack:
    """The TCP connections and listeners of one host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.connections: dict[tuple[Endpoint, Endpoint], Connection] = {}
        self._listeners: dict[int, list[Acceptor]] = {}

    def listening_endpoint(self, local: Endpoint) -> Endpoint:
        """``local`` with a free port if it has none; OSError(EADDRNOTAVAIL) if the address is not ours."""
        self.host.check_bindable(local.host)
        if local.port:
            return local
        return Endpoint(local.host, free_port(self.host.internet.dice, self._listeners.__contains__))

    def add_listener(self, listener: Acceptor) -> None:
        """SO_REUSEPORT: an endpoint may have several; each connection goes to one of them at random."""
        self._listeners.setdefault(listener.local.port, []).append(listener)

    def remove_listener(self, listener: Acceptor) -> None:
        listeners = self._listeners[listener.local.port]
        listeners.remove(listener)
        if not listeners:
            del self._listeners[listener.local.port]

    def connect(self, remote: Endpoint, local: Endpoint | None) -> Connection:
        """Begin to connect.

        OSError: EADDRNOTAVAIL if the same two endpoints are connected, or about to be, or in TIME-WAIT, or the
        address is not ours; ENETUNREACH; EINVAL for a port out of range.
        """
        if not 0 < remote.port <= 65535:
            raise os_error(errno.EINVAL)
        if local is None or is_wildcard(local.host):
            local = Endpoint(self.host.source_for(remote.host), local.port if local is not None else 0)
        self.host.check_bindable(local.host)
        if local.is_ipv6 != remote.is_ipv6:
            raise os_error(errno.EAFNOSUPPORT)
        source = local.host
        if not local.port:
            port = free_port(
                self.host.internet.dice,
                lambda port: port in self._listeners or (Endpoint(source, port), remote) in self.connections,
            )
            local = Endpoint(source, port)
        if (local, remote) in self.connections:
            raise os_error(errno.EADDRNOTAVAIL)
        connection = Connection(self, local, remote)
        self.connections[local, remote] = connection
        connection.send_syn()
        return connection

    def receive(self, segment: TcpSegment) -> None:
        """Hand a segment to its connection, a SYN to a listener; RST for the rest."""
        connection = self.connections.get((segment.destination, segment.source))
        opens = segment.syn and not segment.ack_flag
        if connection is not None and connection.state is State.TIME_WAIT and opens:
            connection.abandon()
            connection = None
        if connection is not None:
            connection.receive(segment)
        elif opens and not segment.rst:
            self._receive_syn(segment)
        else:
            self.refuse(segment)

    def refuse(self, segment: TcpSegment) -> None:
        """Answer with RST (RFC 9293 §3.5.2), but never an RST."""
        if not segment.rst:
            self.send(reset_for(segment))

    def send(self, segment: TcpSegment) -> None:
        """Send; a source address that is gone loses the segment, and time-outs tell."""
        try:
            self.host.send(segment)
        except OSError:
            self.host.internet.drop(segment, "no-route", self.host.name)

    def forget(self, connection: Connection) -> None:
        key = connection.local, connection.remote
        if self.connections.get(key) is connection:
            del self.connections[key]

    def _receive_syn(self, syn: TcpSegment) -> None:
        local = syn.destination
        listeners = [listener for listener in self._listeners.get(local.port, ()) if _listens_on(listener, local.host)]
        if not listeners:
            self.host.internet.drop(syn, "no-socket", self.host.name)
            self.refuse(syn)
            return
        listener = listeners[0] if len(listeners) == 1 else self.host.internet.dice.choice(listeners)
        if listener.full:
            self.host.internet.drop(syn, "backlog-full", self.host.name)
            return
        connection = Connection(self, local, syn.source, listener)
        self.connections[local, syn.source] = connection
        connection.answer_syn(syn)


class Acceptor(Protocol):
    """What the stack needs of a listener."""

    @property
    def local(self) -> Endpoint: ...

    @property
    def full(self) -> bool:
        """Whether another SYN is to be dropped."""

    def offer(self, connection: Connection) -> bool:
        """Take an established connection; False if that is not possible any more."""


def reset_for(segment: TcpSegment) -> TcpSegment:
    """The RST that answers an unwelcome segment: from its destination, with numbers that its sender accepts."""
    seq = segment.ack if segment.ack_flag else 0
    ack = None if segment.ack_flag else segment.end
    return TcpSegment(segment.destination, segment.source, seq=seq, ack=ack, rst=True)


def _listens_on(listener: Acceptor, host: str) -> bool:
    bound = listener.local.host
    return bound == host or (is_wildcard(bound) and (":" in bound) == (":" in host))
