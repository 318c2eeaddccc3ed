"""One endpoint whose other end is the test: packets go in one by one, exact packet lists come out."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests.utp.packets import cut, packet, show
from utp.config import UtpConfig
from utp.connection import Connection
from utp.endpoint import Accepted, UtpEndpoint
from utp.path import Outgoing, Path

PEER = ("192.0.2.9", 9)
PATH = Path(None, PEER)
NO_PROBING = UtpConfig(mtu_probing=False, slowdowns=False)


class Dice(random.Random):
    """Gives the numbers it was made with, one after the other."""

    def __init__(self, *numbers: int) -> None:
        super().__init__(0)
        self._numbers = list(numbers)

    def randrange(self, *args: int) -> int:  # type: ignore[override]
        return self._numbers.pop(0)


class Solo:
    """Ids and first sequence numbers of ours come from ``dice``: for each SYN an id and a number."""

    def __init__(self, *dice: int, config: UtpConfig = NO_PROBING) -> None:
        self.endpoint = UtpEndpoint(config, Dice(*dice))
        self.now = 1000.0
        self.accepted: list[Connection] = []

    def feed(self, *datagrams: memoryview, path: Path = PATH) -> None:
        self.endpoint.receive_batch(datagrams, path, self.now)
        self._take()

    def sent(self) -> list[str]:
        """What leaves now."""
        return show(cut(self.outgoing()))

    def outgoing(self) -> list[Outgoing]:
        runs: list[Outgoing] = []
        while more := self.endpoint.datagrams_to_send(self.now):
            runs += more
        self._take()
        return runs

    def wait(self, seconds: float) -> list[str]:
        """Let time pass, deadline by deadline; everything that left, each with its time relative to the start."""
        start, end = self.now, self.now + seconds
        shown = [f"0: {text}" for text in self.sent()]
        while (deadline := self.endpoint.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.endpoint.handle_deadline(self.now)
            shown += [f"{self.now - start:g}: {text}" for text in self.sent()]
        self.now = end
        return shown

    def connected(self, id: int = 100, seq_nr: int = 1000, peer_seq: int = 5000) -> Connection:
        """A connection that we opened with the SYN ``id``, ``seq_nr``; our data begins at ``seq_nr`` + 1."""
        connection = self.endpoint.connect(PATH, self.now)
        self.sent()
        self.now += 0.1
        self.feed(packet("STATE", id, peer_seq, seq_nr))
        self.sent()
        assert connection.connected
        return connection

    def _take(self) -> None:
        for result in self.endpoint.take_results():
            if isinstance(result, Accepted):
                self.accepted.append(result.connection)


def data_run(id: int, first: int, ack_nr: int, payloads: Sequence[bytes]) -> list[memoryview]:
    """Consecutive ST_DATA packets, as GRO hands them over."""
    return [packet("DATA", id, first + index, ack_nr, payload) for index, payload in enumerate(payloads)]
