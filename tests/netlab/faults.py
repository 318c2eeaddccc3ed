"""What goes wrong with routers and peers in the middle of things, done to a laboratory's kernel NATs.

Routers lose their state here, not their speed: nothing is delayed or dropped at random.  That two peers share a NAT is
`Lab.sibling`; that a process dies is `subprocess.Popen.kill`.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from tests.netlab.lab import Lab, Machine, end, inside
from tests.netlab.routers import GATEWAYS, home_nat, rules

NETLINK_NETFILTER = 12  # linux/netlink.h
NLM_F_REQUEST, NLM_F_ACK = 1, 4
CTNETLINK_DELETE = 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE: deletes all if none is named
REQUEST = struct.Struct("=IHHIIBBH")  # length, type, flags, sequence, port; family, version, resource
ANSWER = struct.Struct("=IHHIIi")  # the same header, then zero or a negative errno


def reboot_router(lab: Lab, machine: Machine) -> None:
    """The home router restarts, in no time: NAT mappings and opened ports are gone, its gateway counts from zero.

    The gateway does not listen yet when this returns: `wait_for_gateway`.
    """
    router = _home(machine)
    network = machine.address.rpartition(".")[0]
    fresh = rules(home_nat(machine.kind), router.address, f"{network}.2")
    router.run("nft", "-f", "-", stdin=f"delete table inet lab\n{fresh}")
    _forget_connections(router)
    if machine.kind in GATEWAYS:
        end(router.processes[-1])
        lab.start_gateway(router, *GATEWAYS[machine.kind])


def change_external_address(lab: Lab, machine: Machine, address: str) -> None:
    """The outermost router gets another public ``address``, as after a reconnect at night; else like `reboot_router`.

    Of the machines on the LAN only ``machine.external`` is kept up to date.
    """
    outermost = list(_routers(machine))[-1]
    outermost.run("ip", "addr", "del", f"{outermost.address}/24", "dev", "wan")
    outermost.run("ip", "addr", "add", f"{address}/24", "dev", "wan")
    outermost.run("ip", "route", "add", "default", "via", f"{address.rpartition('.')[0]}.1")
    _forget_connections(outermost)
    for changed in (outermost, _home(machine), machine):
        changed.external = address
    outermost.address = address
    reboot_router(lab, machine)


def shorten_udp_mappings(machine: Machine, seconds: int) -> None:
    """From now on, a UDP mapping of any router outside the machine lasts so long after the last packet."""
    for router in _routers(machine):
        names = "nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"
        router.run("sysctl", "-q", "-w", *(f"net.netfilter.{name}={seconds}" for name in names))


def unplug(machine: Machine) -> None:
    """The machine vanishes without a word: nothing gets in or out until `plug`."""
    machine.run("ip", "link", "set", "eth0", "down")


def plug(machine: Machine) -> None:
    """Undo `unplug`, for IPv4: a machine loses its IPv6 address with its link."""
    machine.run("ip", "link", "set", "eth0", "up")
    gateway = f"{machine.address.rpartition('.')[0]}.1"
    machine.run("ip", "route", "replace", "default", "via", gateway)  # went with the link


def _home(machine: Machine) -> Machine:
    assert machine.router is not None, f"{machine.name} is behind no router"
    return machine.router


def _routers(machine: Machine) -> Iterator[Machine]:
    """Those outside a machine, the home's first."""
    while machine.router is not None:
        machine = machine.router
        yield machine


def _forget_connections(router: Machine) -> None:
    """Empty the kernel's table of connections, which holds the NAT mappings; OSError if it refuses."""
    request = REQUEST.pack(REQUEST.size, CTNETLINK_DELETE, NLM_F_REQUEST | NLM_F_ACK, 1, 0, socket.AF_UNSPEC, 0, 0)
    with inside(router.namespace):
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    with netlink:
        netlink.send(request)
        *_, code = ANSWER.unpack_from(netlink.recv(4096))
    if code:
        raise OSError(-code, "the table of connections was not emptied")
