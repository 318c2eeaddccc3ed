"""Everything about a µTP endpoint that may be chosen, each with its unit and effect."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UtpConfig:
    """Settings of an endpoint.  Sizes in bytes, times in seconds."""

    # Congestion (RFC 6817, BEP 29)
    target_delay: float = 0.1  # queueing delay that LEDBAT aims at
    gain: int = 3000  # at most this many bytes of window are won per round trip
    initial_window: int = 4  # packets
    slowdowns: bool = True  # drop to two packets now and then to see the path without our own queue (LEDBAT++)

    # Buffers: nothing below is ever exceeded by what the other end does
    receive_buffer: int = 1 << 20  # unread bytes held for the application; the window we advertise
    send_buffer: int = 1 << 18  # bytes accepted from the application and not yet sent
    max_packets_in_flight: int = 900  # libtorrent's reorder buffer holds 953 packets, libutp's 1,023
    reorder_packets: int = 1023  # how far ahead of the next expected packet we keep what arrives

    # Loss
    initial_rto: float = 1.0
    min_rto: float = 0.5  # libtorrent's; libutp has 1 s
    max_rto: float = 8.0
    max_timeouts: int = 5  # consecutive; 0.5 + 1 + 2 + 4 + 8 s without an ACK and the connection is lost

    # Opening and closing
    syn_times: tuple[float, ...] = (
        0.0,
        1.0,
        2.0,
        4.0,
    )  # when the SYNs of one attempt leave, each with an id of its own
    syn_patience: float = 3.0  # how long the last SYN is given
    half_open_seconds: float = 10.0  # how long a SYN from outside may wait for the packet that proves its sender
    max_half_open: int = 256  # such connections at once; the oldest of the same host makes room, or else the oldest
    max_connections: int = 4000
    accept_backlog: int = 128  # accepted by the protocol, not yet by the program; beyond that they are reset
    linger: float = 10.0  # how long a closed connection waits for the other end's FIN
    memory_seconds: float = 30.0  # how long a finished connection is remembered, to answer its stragglers
    memory_entries: int = 1000
    keepalive: float = 25.0  # NAT mappings of 30 s are common, and one packet may be late

    # Path MTU: UDP payload sizes
    mtu_floor_v4: int = 548  # 576 - 28: what IPv4 hosts must take
    mtu_ceiling_v4: int = 1472  # 1500 - 28
    mtu_floor_v6: int = 1232  # 1280 - 48
    mtu_ceiling_v6: int = 1452  # 1500 - 48
    mtu_probing: bool = True  # off: the ceiling is taken for granted
