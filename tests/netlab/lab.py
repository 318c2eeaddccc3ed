"""Kernel NATs on one machine: namespaces, veth pairs, nftables, a real miniupnpd.  Needs root; uses no outside network.

    public machines 11.11.11.10...  --[inet: a bridge]--  11.11.11.100... [router: NAT] 10.x.0.1  --  machine 10.x.0.2
                    2a0e:11::10...                        2a0e:11::100... (firewall)    2a0e:11:x::1     2a0e:11:x::2

The kinds of NAT are those of `swarm.simnet.catalogue`, so that both laboratories run the same grid.  The public range
is not a documentation range: miniupnpd refuses to map on one.  Every name starts with a prefix of this process, so
that laboratories run side by side; what is ended in the end are this process's own children and namespaces.
"""

from __future__ import annotations

import ctypes
import itertools
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from ipaddress import ip_address
from os import getpid
from pathlib import Path
from types import TracebackType

from tests.needs import need_program, need_root
from tests.netlab.routers import CARRIERS, GATEWAY_PORTS, GATEWAYS, MINIUPNPD, OPEN, home_nat, rules

CHECKOUT = Path(__file__).resolve().parent.parent.parent
COMMAND_LIMIT = 20.0  # seconds for one set-up command
TERMINATE_LIMIT = 3.0  # seconds from SIGTERM to SIGKILL
CLONE_NEWNET = 0x40000000  # linux/sched.h

PUBLIC = "11.11.11."
PUBLIC6 = "2a0e:11::"

_numbers = itertools.count()


@dataclass
class Machine:
    """A network namespace.  ``router`` is the one it is behind, ``external`` its address as the public sees it.

    Without IPv4, ``address``, ``external`` and ``address6`` are the same.  A home router is itself behind its
    carrier's, if it has one.  ``kind`` is the NAT that a machine is behind.
    """

    name: str
    namespace: str
    address: str
    external: str
    address6: str
    router: Machine | None = None
    kind: str = "open"
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, *command: str, stdin: str = "") -> str:
        """What the command printed; AssertionError with its standard error if it fails."""
        return _run("ip", "netns", "exec", self.namespace, *command, stdin=stdin)

    def start(self, *command: str, log: Path | None = None) -> subprocess.Popen[str]:
        """A process here, with pipes for standard input and output; it is ended with the laboratory."""
        with (log or Path("/dev/null")).open("w") as errors:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *command],
                cwd=CHECKOUT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.processes.append(process)
        return process

    def bind(self, kind: socket.SocketKind, port: int = 0) -> socket.socket:
        """A bound socket of this machine, in this process, of the family of its ``address``."""
        family, wildcard = (socket.AF_INET6, "::") if ":" in self.address else (socket.AF_INET, "0.0.0.0")
        with inside(self.namespace):
            made = socket.socket(family, kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((wildcard, port))
        return made

    def python(self, *arguments: str, log: Path | None = None) -> subprocess.Popen[str]:
        """This interpreter, in the checkout."""
        return self.start(sys.executable, "-u", *arguments, log=log)


class Lab:
    """A context manager; machines are made with `public`, `behind` and `sibling`.

    Without ``ipv6`` nothing here has it, so that no pair meets around its IPv4 NATs.  Without ``ipv4`` only routers
    have that: miniupnpd does not start otherwise.
    """

    def __init__(self, *, ipv4: bool = True, ipv6: bool = True) -> None:
        assert ipv4 or ipv6
        need_root()
        for program in ("ip", "nft"):
            need_program(program)
        self.directory = Path(tempfile.mkdtemp(prefix="swarm-lab-"))
        self._ipv4, self._ipv6 = ipv4, ipv6
        self._prefix = f"sw{getpid()}x{next(_numbers)}-"
        self._machines: list[Machine] = []
        self._public = itertools.count(10)
        self._routers = itertools.count(1)
        self._siblings = itertools.count(3)

    def __enter__(self) -> Lab:
        try:
            self._inet = self._namespace("inet", f"{PUBLIC}1", f"{PUBLIC}1", f"{PUBLIC6}1")
            self._bridge(self._inet, "br0", f"{PUBLIC}1/24", f"{PUBLIC6}1/64")
            _forward(self._inet)
        except BaseException:
            self._tear_down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._tear_down()
        if error is None:
            shutil.rmtree(self.directory)  # else the logs are worth reading

    def public(self, name: str) -> Machine:
        """A machine with a public address."""
        number = next(self._public)
        machine = self._host(name, f"{PUBLIC}{number}", f"{PUBLIC}{number}", f"{PUBLIC6}{number:x}")
        self._plug(machine, "eth0", self._inet, "br0")
        self._give_addresses(machine, f"{PUBLIC}1", f"{PUBLIC6}1")
        return machine

    def move(self, machine: Machine, address: str) -> None:
        """Let a public machine be in another network than all others, and be seen from there only."""
        machine.run("ip", "addr", "add", f"{address}/32", "dev", "eth0")
        for route in (("default", "via", f"{PUBLIC}1"), (f"{PUBLIC}0/24", "dev", "eth0")):
            machine.run("ip", "route", "replace", *route, "src", address)
        self._inet.run("ip", "route", "add", f"{address}/32", "via", machine.address)
        machine.address = machine.external = address

    def behind(self, kind: str, name: str) -> Machine:
        """A machine behind routers of its own of this kind, `RULES` and GATEWAYS; OPEN are `public`."""
        if kind in OPEN:
            return self.public(name)
        number = next(self._routers)
        wan, wan6 = f"{PUBLIC}{99 + number}", f"{PUBLIC6}{99 + number:x}"
        router = self._namespace(f"{name}-r", wan, wan, wan6)
        if kind in CARRIERS:
            router.address = f"100.64.{number}.2"
            self._carrier(router, CARRIERS[kind], wan, number)
        else:
            self._plug(router, "wan", self._inet, "br0")
            self._address(router, "wan", f"{wan}/24", f"{wan6}/64")
            self._default_routes(router, f"{PUBLIC}1", f"{PUBLIC6}1")
            if self._ipv6:
                _run("ip", "-n", self._inet.namespace, "route", "add", f"2a0e:11:{number:x}::/64", "via", wan6)
        self._bridge(router, "lan", f"10.{number}.0.1/24", f"2a0e:11:{number:x}::1/64")
        _forward(router)
        machine = self._host(name, f"10.{number}.0.2", wan, f"2a0e:11:{number:x}::2", router)
        machine.kind = kind
        self._join(machine, router)
        router.run("nft", "-f", "-", stdin=rules(home_nat(kind), router.address, f"10.{number}.0.2"))
        if kind in GATEWAYS:
            self.start_gateway(router, *GATEWAYS[kind])
        return machine

    def sibling(self, name: str, of: Machine) -> Machine:
        """Another machine on the LAN of ``of``."""
        assert of.router is not None
        number = next(self._siblings)
        address = f"{of.address.rpartition('.')[0]}.{number}"
        machine = self._host(name, address, of.external, f"{of.address6[:-1]}{number:x}", of.router)
        machine.kind = of.kind
        self._join(machine, of.router)
        return machine

    def start_gateway(
        self, router: Machine, upnp: str, natpmp: str, *, says: str | None = None
    ) -> subprocess.Popen[str]:
        """A miniupnpd on the router; its rules go into the table `rules` has made.

        ``says`` is the outside address that it is told to name, by default the router's own.
        """
        program = need_program("miniupnpd")
        base = self.directory / router.name
        # Behind a carrier it finds its private outside address by itself; told, it refuses to start.
        named = says or router.address
        external = f"ext_ip={named}" if ip_address(named).is_global else ""
        base.with_suffix(".conf").write_text(MINIUPNPD.format(external=external, upnp=upnp, natpmp=natpmp))
        if natpmp == "no":  # it speaks PCP over IPv6 all the same
            router.run("nft", "insert", "rule", "inet", "lab", "input", "udp", "dport", "5351", "drop")
        command = [program, "-d", "-f", f"{base}.conf", "-P", f"{base}.pid"]
        return router.start(*command, log=base.with_suffix(".log"))

    def _tear_down(self) -> None:
        processes = [process for machine in self._machines for process in machine.processes]
        for process in processes:
            process.terminate()  # all at once: a node may take its time to say goodbye
        for process in processes:
            end(process)
        for machine in self._machines:
            _run("ip", "netns", "del", machine.namespace)

    # ---- wiring

    def _namespace(
        self, name: str, address: str, external: str, address6: str, router: Machine | None = None
    ) -> Machine:
        machine = Machine(name, self._prefix + name, address, external, address6, router)
        _run("ip", "netns", "add", machine.namespace)
        self._machines.append(machine)
        switch = "accept_dad" if self._ipv6 else "disable_ipv6"
        value = 0 if self._ipv6 else 1
        machine.run("sh", "-c", f"ip link set lo up; echo {value} > /proc/sys/net/ipv6/conf/default/{switch}")
        return machine

    def _host(self, name: str, address: str, external: str, address6: str, router: Machine | None = None) -> Machine:
        if not self._ipv4:
            address = external = address6
        return self._namespace(name, address, external, address6, router)

    def _carrier(self, router: Machine, kind: str, wan: str, number: int) -> None:
        carrier = self._namespace(f"{router.name}-c", wan, wan, router.address6)
        router.router = carrier
        self._plug(carrier, "wan", self._inet, "br0")
        self._address(carrier, "wan", f"{wan}/24", f"{carrier.address6}/64")
        self._default_routes(carrier, f"{PUBLIC}1", f"{PUBLIC6}1")
        _wire(carrier, "lan", router, "wan")
        self._address(carrier, "lan", f"100.64.{number}.1/24")
        self._address(router, "wan", f"{router.address}/24")
        _run("ip", "-n", router.namespace, "route", "add", "default", "via", f"100.64.{number}.1")
        _forward(carrier)
        carrier.run("nft", "-f", "-", stdin=rules(kind, wan, router.address))

    def _bridge(self, machine: Machine, name: str, *addresses: str) -> None:
        _run("ip", "-n", machine.namespace, "link", "add", name, "type", "bridge")
        _run("ip", "-n", machine.namespace, "link", "set", name, "up")
        self._address(machine, name, *addresses)

    def _join(self, machine: Machine, router: Machine) -> None:
        self._plug(machine, "eth0", router, "lan")
        network6 = machine.address6.rpartition(":")[0]
        self._give_addresses(machine, f"{machine.address.rpartition('.')[0]}.1", f"{network6}:1")

    def _give_addresses(self, machine: Machine, gateway: str, gateway6: str) -> None:
        if self._ipv4:
            self._address(machine, "eth0", f"{machine.address}/24")
            self._default_routes(machine, gateway)
        self._address(machine, "eth0", f"{machine.address6}/64")
        self._default_routes(machine, gateway6)

    def _plug(self, machine: Machine, interface: str, switch: Machine, bridge: str) -> None:
        port = f"p{len(self._machines)}"
        _wire(machine, interface, switch, port)
        _run("ip", "-n", switch.namespace, "link", "set", port, "master", bridge)

    def _address(self, machine: Machine, interface: str, *addresses: str) -> None:
        for address in self._used(addresses):
            extra = ["nodad"] if ":" in address else []
            _run("ip", "-n", machine.namespace, "addr", "add", address, "dev", interface, *extra)

    def _default_routes(self, machine: Machine, *gateways: str) -> None:
        for gateway in self._used(gateways):
            family = "-6" if ":" in gateway else "-4"
            _run("ip", family, "-n", machine.namespace, "route", "add", "default", "via", gateway)

    def _used(self, addresses: tuple[str, ...]) -> list[str]:
        return [address for address in addresses if self._ipv6 or ":" not in address]


def wait_for_gateway(machine: Machine) -> None:
    """Until the miniupnpd of a machine's router listens; AssertionError if it does not."""
    assert machine.router is not None
    deadline = time.monotonic() + COMMAND_LIMIT
    while any(port not in machine.router.run("ss", "-lntu") for port in GATEWAY_PORTS[machine.kind]):
        assert machine.router.processes[-1].poll() is None, "miniupnpd has ended"
        assert time.monotonic() < deadline, "miniupnpd does not listen"
        time.sleep(0.02)


def end(process: subprocess.Popen[str]) -> None:
    """End a process of ours and wait until it has gone."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(TERMINATE_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Sockets that are made in the block belong to the namespace (setns(2); `os.setns` came with Python 3.12)."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(place: TextIOWrapper) -> None:
        if libc.setns(place.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as away:
        enter(away)
        try:
            yield
        finally:
            enter(home)


def _run(*command: str, stdin: str = "") -> str:
    result = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=COMMAND_LIMIT, cwd=CHECKOUT, check=False
    )
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}{result.stderr}"
    return result.stdout


def _wire(one: Machine, interface: str, other: Machine, port: str) -> None:
    ends = (interface, "netns", one.namespace, "type", "veth", "peer", "name", port, "netns", other.namespace)
    _run("ip", "link", "add", *ends)
    for machine, name in ((one, interface), (other, port)):
        _run("ip", "-n", machine.namespace, "link", "set", name, "up")


def _forward(machine: Machine) -> None:
    machine.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    # br_netfilter, where it is loaded, would have bridges do the routers' work, and none turns a packet around.
    machine.run("sysctl", "-q", "-e", "-w", "net.bridge.bridge-nf-call-iptables=0")
