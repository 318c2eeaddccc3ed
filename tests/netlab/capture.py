"""``python -m tests.netlab.capture INTERFACE``: a packet capture of TCP and UDP over IPv4 and IPv6; needs root.

Prints "ready", captures both directions until standard input closes, then prints one line of JSON: how many were lost,
and the distinct `Seen` with how often.  What is sent as one run with GSO is one packet here.  Of a later fragment the
ports mean nothing; of IPv6 extension headers only the fragment header is read.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
from collections import Counter
from dataclasses import astuple, dataclass
from ipaddress import ip_address
from subprocess import Popen

from tests.netlab.lab import Machine

ETH_P_ALL = 3
SOL_PACKET, PACKET_STATISTICS = 263, 6  # linux/if_packet.h
SO_RCVBUFFORCE = 33
BUFFER = 32 << 20  # bytes that may wait while this process does not run
SNAP = 128  # bytes kept of each packet
IPV4, IPV6 = 4, 6
IPV6_HEADER, FRAGMENT_HEADER = 40, 8  # bytes
DONT_FRAGMENT = 0x4000
FRAGMENT = 0x3FFF  # more fragments follow, or an offset
PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}


@dataclass(frozen=True)
class Seen:
    """A kind of packet."""

    protocol: str
    source: str
    source_port: int
    destination: str
    destination_port: int
    dont_fragment: bool
    """Always true of IPv6, whose routers fragment nothing."""
    fragment: bool


class Capture:
    """One under way on a machine; a context manager that is ready when entered."""

    def __init__(self, machine: Machine, interface: str = "eth0") -> None:
        self._process: Popen[str] = machine.python("-m", "tests.netlab.capture", interface)

    def __enter__(self) -> Capture:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()

    def stop(self) -> Counter[Seen]:
        """How often each kind was seen; AssertionError if packets were lost."""
        told, _ = self._process.communicate(timeout=5)
        result = json.loads(told)
        assert result["lost"] == 0
        return Counter({Seen(*seen): count for seen, count in result["seen"]})


def main(interface: str) -> None:
    seen: Counter[Seen] = Counter()
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        sock.bind((interface, ETH_P_ALL))
        print("ready", flush=True)
        while sys.stdin not in select.select([sock, sys.stdin], [], [])[0]:
            seen.update(_seen_in(sock.recv(SNAP)))
        sock.setblocking(False)
        try:
            while True:
                seen.update(_seen_in(sock.recv(SNAP)))
        except BlockingIOError:
            pass  # that was all
        _, lost = struct.unpack("II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    print(json.dumps({"lost": lost, "seen": [(astuple(one), count) for one, count in seen.items()]}))


def _seen_in(packet: bytes) -> set[Seen]:
    """One or none."""
    version = packet[0] >> 4
    if version == IPV4:
        flags, number, header = int.from_bytes(packet[6:8]), packet[9], (packet[0] & 15) * 4
        source, destination = packet[12:16], packet[16:20]
    elif version == IPV6:
        flags, number, header = DONT_FRAGMENT, packet[6], IPV6_HEADER
        source, destination = packet[8:24], packet[24:40]
        if number == socket.IPPROTO_FRAGMENT:
            flags, number, header = DONT_FRAGMENT | FRAGMENT, packet[header], header + FRAGMENT_HEADER
    else:
        return set()  # ARP
    if number not in PROTOCOLS:
        return set()
    source_port, destination_port = struct.unpack_from("!HH", packet, header)
    return {
        Seen(
            PROTOCOLS[number],
            str(ip_address(source)),
            source_port,
            str(ip_address(destination)),
            destination_port,
            bool(flags & DONT_FRAGMENT),
            bool(flags & FRAGMENT),
        )
    }


if __name__ == "__main__":
    main(sys.argv[1])
