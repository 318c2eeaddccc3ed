"""A relay and its clients without nodes or streams: `Relay` extensions joined by queues that `World.pump` empties."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from swarm.config import RelayLimits
from swarm.endpoint import Endpoint
from swarm.events import PathName
from swarm.ext.freight import ENVELOPE, Freight
from swarm.ext.relay import Relay, RelaySide
from swarm.ext.relay_desk import RelayDesk
from swarm.ext.relay_message import Accept, Connect, RelayMessage, Reserve
from swarm.wire.extended import ExtendedHandshake

HANDSHAKE = ExtendedHandshake(m={Relay.NAME: 3})
SWARM = b"s" * 20
BATCH = 64 << 10


@dataclass
class Located:
    observed: Endpoint
    listens: Endpoint | None = None
    path: PathName = "tcp"


class End:
    """One end of a connection.  ``reads`` False: what is said to it waits on the other side for ever."""

    def __init__(self, side: RelaySide, located: Located, swarm: bytes) -> None:
        self.small: deque[bytes] = deque()
        self.freight = Freight(lambda: None)
        self.relay = Relay(self.small.append, side, located, swarm, self.freight)
        self.reads = True
        self.open = True

    @property
    def waits(self) -> bool:
        return bool(self.small or self.freight._frames)

    class Side:
        """What an end does with what it is told; a client's by default."""

        def __init__(self) -> None:
            self.told: list[RelayMessage] = []
            self.closed: list[Relay] = []
            self.on_told: Callable[[Relay, RelayMessage], None] = lambda by, message: None

        def relay_joined(self, by: Relay) -> None:
            pass

        def relay_told(self, by: Relay, message: RelayMessage, now: float) -> None:
            self.told.append(message)
            self.on_told(by, message)

        def relay_closed(self, by: Relay) -> None:
            self.closed.append(by)


class DeskSide(End.Side):
    """The relay's: everything goes to the desk."""

    def __init__(self, desk: RelayDesk) -> None:
        super().__init__()
        self.desk = desk

    def relay_joined(self, by: Relay) -> None:
        self.desk.joined(by)

    def relay_told(self, by: Relay, message: RelayMessage, now: float) -> None:
        match message:
            case Reserve():
                self.desk.reserve_asked(by, message, now)
            case Connect():
                self.desk.connect_asked(by, message, now)
            case Accept():
                self.desk.accepted(by, message.circuit, now)
            case _:
                super().relay_told(by, message, now)

    def relay_closed(self, by: Relay) -> None:
        self.desk.left(by)


class Client:
    """A client of the relay: ``near`` is its end of the connection, ``far`` the relay's."""

    def __init__(
        self,
        world: World,
        observed: Endpoint,
        listens: Endpoint | None,
        swarm: bytes,
        path: PathName,
        side: RelaySide | None = None,
    ) -> None:
        self.world = world
        self.side = End.Side()
        self.near = End(side or self.side, Located(world.address), swarm)
        self.far = End(world.side, Located(observed, listens, path), swarm)
        self.observed = observed

    @property
    def told(self) -> list[RelayMessage]:
        return self.side.told

    def say(self, message: RelayMessage) -> None:
        """To the relay, which acts on it at once."""
        self.near.relay.tell(message)
        self.world.pump()

    def close(self) -> None:
        self.near.open = self.far.open = False
        self.far.relay.closed()
        self.near.relay.closed()


class World:
    """One relay.  Time stands still unless ``now`` is set."""

    def __init__(self, limits: RelayLimits | None = None) -> None:
        self.now = 1000.0
        self.address = Endpoint("20.0.0.1", 6881)
        self.serving = True
        self.desk = RelayDesk(
            limits or RelayLimits(),
            random.Random(1),
            serves=lambda: self.serving,
            is_own=lambda endpoint: endpoint == self.address,
        )
        self.side = DeskSide(self.desk)
        self.clients: list[Client] = []
        self.carried = 0
        self.desk.handle_deadline(self.now)

    def client(
        self,
        host: str,
        port: int = 4000,
        *,
        listens: Endpoint | None = None,
        swarm: bytes = SWARM,
        path: PathName = "tcp",
        reserved: bool = False,
        side: RelaySide | None = None,
    ) -> Client:
        """``side`` is told what its end is told, instead of `Client.told`."""
        client = Client(self, Endpoint(host, port), listens, swarm, path, side)
        self.clients.append(client)
        for end in (client.near, client.far):
            end.relay.handshake_received(HANDSHAKE, self.now)
        self.pump()
        if reserved:
            client.say(Reserve(7))
        return client

    def pass_time(self, seconds: float) -> None:
        """In steps of the desk's deadlines."""
        until = self.now + seconds
        while (due := self.desk.next_deadline()) is not None and due <= until:
            self.now = max(due, self.now)
            self.desk.handle_deadline(self.now)
            self.pump()
        self.now = until

    def pump(self) -> None:
        """Deliver everything, small messages first, until nothing is left that is read."""
        while any(self._deliver(client) for client in self.clients):
            pass

    def _deliver(self, client: Client) -> bool:
        if not (client.near.waits or client.far.waits):  # of a thousand most have nothing to say
            return False
        moved = False
        for sender, receiver in ((client.near, client.far), (client.far, client.near)):
            while sender.small and receiver.reads and receiver.open:
                receiver.relay.receive_untrusted(sender.small.popleft(), self.now)
                moved = True
            if not receiver.reads or not receiver.open:
                continue
            batch = sender.freight.next_batch(BATCH, blocks_wait=False)
            for header, payload in zip(batch[::2], batch[1::2], strict=True):
                assert len(header) == ENVELOPE
                self.carried += len(payload)
                receiver.relay.receive_untrusted(payload, self.now)
                moved = True
        return moved
