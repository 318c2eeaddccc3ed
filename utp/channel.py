"""The established part of a connection: sender, receiver, delay meter and framing, joined by what every header says.

Here packets of a known connection become bytes and acknowledgements and the other way round.  States, handshake,
closing and timers other than the sender's are the connection's.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from utp.config import UtpConfig
from utp.delay import DelayMeter
from utp.framing import Framing, reset
from utp.mtu import MtuSearch
from utp.path import Outgoing, Path
from utp.receiver import Receiver
from utp.rtt import RttEstimator
from utp.sender import Sender
from utp.seqnr import HALF, SEQ_MASK
from utp.wire import HEADER, HEADER_SIZE, ST_DATA, ST_FIN, ST_STATE, Packet, first_word, unpack_word_seq_ack

RUNS_PER_TURN = 8  # of one connection before the next one may send: about half a megabyte
ACK_REACH = 2048  # an acknowledgement older than that was not sent by the other end of this connection


class Channel:
    """``ack_due``: something arrived that wants an answer.  ``delay``: queueing delay in our direction, seconds."""

    __slots__ = (
        "_advertised",
        "_config",
        "_data_word",
        "_framing",
        "_meter",
        "_path",
        "_send_id",
        "ack_due",
        "delay",
        "receiver",
        "sender",
    )

    def __init__(
        self, config: UtpConfig, path: Path, *, recv_id: int, send_id: int, next_seq_out: int, next_seq_in: int
    ) -> None:
        self._config = config
        self._path = path
        self._send_id = send_id
        self._data_word = first_word(ST_DATA, recv_id)
        self._framing = Framing(path, send_id)
        self._meter = DelayMeter()
        self._advertised = 0  # the window in the last header sent
        self.ack_due = False
        self.delay = 0.0
        rtt = RttEstimator(config.initial_rto, config.min_rto, config.max_rto)
        self.sender = Sender(config, next_seq_out & SEQ_MASK, rtt, _mtu_search(config, path))
        self.receiver = Receiver(next_seq_in & SEQ_MASK, config.receive_buffer, config.reorder_packets)

    @property
    def done(self) -> bool:
        """Both ends have finished and know it."""
        return self.sender.fin_acked and self.receiver.finished

    @property
    def abandoned_well(self) -> bool:
        """All that matters has arrived: only the acknowledgement of our FIN is missing."""
        return self.receiver.finished and self.sender.awaits_only_fin

    def drop(self) -> None:
        """Nothing more will be sent, nor completed: forget what cannot be read."""
        self.sender.drop()
        self.receiver.drop_early()

    # In

    def confirmed(self, packet: Packet, rtt: float, now: float) -> None:
        """``packet`` was the answer to our SYN, ``rtt`` seconds after it."""
        self.sender.rtt.sample(rtt)
        self.sender.peer_window = packet.wnd_size
        self._meter.received(packet.timestamp, packet.timestamp_difference, now)
        self.ack_due = True

    def receive_in_order(self, datagrams: Sequence[memoryview], start: int, now: float) -> int:
        """The fast path: plain data exactly as expected, however many packets of it, one ACK, one clock reading.

        The index after the last packet taken; ``start`` if the first one needs a closer look.
        """
        receiver = self.receiver
        if receiver.early_mask:
            return start
        expected = receiver.next_seq
        data_word = self._data_word
        payloads: list[memoryview] = []
        size = 0
        try:
            for index in range(start, len(datagrams)):
                datagram = datagrams[index]
                word, seq_nr, _ = unpack_word_seq_ack(datagram)
                if word != data_word or seq_nr != expected:
                    break
                expected = (expected + 1) & SEQ_MASK
                payload = datagram[HEADER_SIZE:]
                payloads.append(payload)
                size += len(payload)
        except struct.error:
            pass  # shorter than a header: the slow path drops it
        count = len(payloads)
        if not count:
            return start
        _, timestamp, difference, wnd_size, _, ack_nr = HEADER.unpack_from(datagrams[start + count - 1])
        if not self.may_acknowledge(ack_nr) or not receiver.receive_run(payloads, size):
            return start
        self.ack_due = True
        self._on_header(ST_DATA, timestamp, difference, wnd_size, ack_nr, 0, now)
        return start + count

    def receive(self, packet: Packet, now: float) -> bool:
        """One packet whose ack_nr `may_acknowledge` found possible; whether there is more, or the end, to read."""
        self._on_header(
            packet.type,
            packet.timestamp,
            packet.timestamp_difference,
            packet.wnd_size,
            packet.ack_nr,
            packet.sack,
            now,
        )
        if packet.type == ST_STATE:
            return False
        self.ack_due = True
        receiver = self.receiver
        before = receiver.unread, receiver.finished
        receiver.receive(packet.seq_nr, packet.payload, fin=packet.type == ST_FIN)
        return before != (receiver.unread, receiver.finished)

    def may_acknowledge(self, ack_nr: int) -> bool:
        """Whether this ack_nr can be true: not of what was never sent, not from long ago."""
        flight = self.sender.flight
        return (flight.next_seq - 1 - ack_nr) & SEQ_MASK <= len(flight) + ACK_REACH

    def acknowledges_all(self, ack_nr: int) -> bool:
        """Whether this ack_nr is the one that a header of ours has led to if nothing of ours is in flight."""
        return (ack_nr + 1) & SEQ_MASK == self.sender.flight.next_seq

    def may_reset(self, ack_nr: int) -> bool:
        """Whether an ST_RESET names a packet that we may have sent lately; ST_STATE carries the next number."""
        return self.may_acknowledge((ack_nr - 1) & SEQ_MASK)

    def is_keepalive(self, packet: Packet) -> bool:
        """libutp's way to keep a mapping alive: ST_STATE with ack_nr one too low."""
        return packet.type == ST_STATE and (packet.ack_nr + 2) & SEQ_MASK == self.sender.flight.first_seq

    def _on_header(
        self, kind: int, timestamp: int, difference: int, wnd_size: int, ack_nr: int, sack: int, now: float
    ) -> None:
        """What every packet tells: delay, window, arrivals."""
        meter, sender = self._meter, self.sender
        meter.received(timestamp, difference, now)
        count = (ack_nr + 1 - sender.flight.first_seq) & SEQ_MASK
        if count >= HALF:
            return  # overtaken by a newer one
        if sender.flight:
            self.delay = meter.queueing_delay(sender.rtt.latest)
        sender.on_ack(count, sack << 1, wnd_size, self.delay, now, duplicate=kind == ST_STATE)

    # Out

    def has_room_to_tell(self) -> bool:
        """Whether reading has made so much room that a sender held back by our window should hear of it."""
        return self.receiver.window() - self._advertised >= self._config.receive_buffer // 2

    def datagrams_to_send(self, now: float, *, data: bool, keepalive: bool) -> tuple[list[Outgoing], bool]:
        """What may leave now (``data`` False: ACKs only), and whether there may be more of it."""
        outgoing: list[Outgoing] = []
        more = self._runs_to_send(outgoing, now) if data else False
        if self.ack_due and (not outgoing or self.receiver.early_mask):
            outgoing.append(self.state_packet(now))
        elif keepalive and not outgoing:
            outgoing.append(self.state_packet(now, back=1))
        if outgoing:
            self.ack_due = False
            self._advertised = self.receiver.window()
        return outgoing, more

    def state_packet(self, now: float, back: int = 0) -> Outgoing:
        """ST_STATE as things stand; ``back`` 1 makes it a keep-alive."""
        receiver = self.receiver
        ack_nr = (receiver.next_seq - 1 - back) & SEQ_MASK
        sack = 0 if back else receiver.early_mask
        return self._framing.state(self.sender.flight.next_seq, self._meter.reply, receiver.window(), ack_nr, sack, now)

    def reset_packet(self, now: float) -> Outgoing:
        ack_nr = (self.receiver.next_seq - 1) & SEQ_MASK
        return reset(self._path, self._send_id, self.sender.flight.next_seq, ack_nr, now)

    def _runs_to_send(self, outgoing: list[Outgoing], now: float) -> bool:
        sender = self.sender
        run = sender.next_run(now)
        if run is None:
            return False
        reply = self._meter.reply
        window = self.receiver.window()
        ack_nr = (self.receiver.next_seq - 1) & SEQ_MASK
        while run is not None:
            outgoing.append(self._framing.run(run, reply, window, ack_nr, now))
            if len(outgoing) == RUNS_PER_TURN:
                return True
            run = sender.next_run(now)
        return False


def _mtu_search(config: UtpConfig, path: Path) -> MtuSearch:
    if ":" in path.remote[0]:
        return MtuSearch(config.mtu_floor_v6, config.mtu_ceiling_v6, probing=config.mtu_probing)
    return MtuSearch(config.mtu_floor_v4, config.mtu_ceiling_v4, probing=config.mtu_probing)
