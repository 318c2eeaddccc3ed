"""What can be set: one table, `SETTINGS`, says of each setting what it is called and how its value is read.

The parser takes its options from it; from where the values come is `swarm.cli.settle`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from swarm.cli.relay_limits import parse_relay_limits
from swarm.cli.units import parse_boolean, parse_duration, parse_outside_port, parse_port, parse_rate

Kind = Literal["value", "switch", "list"]


class Setting(NamedTuple):
    """One thing that can be set; ``name`` is the key of the file and, after ``--``, the option."""

    name: str
    kind: Kind
    parse: Callable[[str], Any]
    """From text; ValueError with a sentence."""

    default: Any
    help: str
    metavar: str | None = None
    short: str | None = None
    choices: tuple[str, ...] | None = None
    secret: bool = False
    """Whether errors must not repeat what was given."""

    network: bool = True
    """Whether it belongs to the network options of the commands that run a node."""

    @property
    def attribute(self) -> str:
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        return f"SWARM_{self.attribute.upper()}"

    @property
    def option(self) -> str:
        """The long option; a switch that is on by itself is switched off by its option."""
        return f"--no-{self.name}" if self.kind == "switch" and self.default is True else f"--{self.name}"


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError("nothing is given")
    return text.strip()


def _path(text: str) -> Path:
    return Path(_text(text)).expanduser()


def _host_name(text: str) -> str:
    """As the daemon's host check takes them: a name, ``*.NAME`` or ``*``."""
    labels = _text(text).rstrip(".").removeprefix("*.").split(".")
    if text.strip() != "*" and not all(label.replace("-", "").replace("_", "").isalnum() for label in labels):
        raise ValueError(f"{text!r} is no host name: it has no port, and * stands at its beginning only, as in *.lan")
    return text.strip()


def parse_host_port(text: str) -> str:
    """``HOST:PORT``, as it stands."""
    from swarm.endpoint import split_host_port

    split_host_port(text)
    return text


def parse_turn(text: str) -> str:
    """A TURN URI, as it stands; the sentence of the ValueError repeats none of it."""
    from swarm.wire.turn_uri import parse_turn_uri

    parse_turn_uri(text)
    return text.strip()


def _encryption(text: str) -> str:
    if text not in ENCRYPTION:
        raise ValueError(f"{text!r} is not one of {', '.join(ENCRYPTION)}")
    return text


ENCRYPTION = ("prefer", "require", "off")


def _switch(name: str, help_text: str) -> Setting:
    return Setting(name=name, kind="switch", parse=parse_boolean, default=True, help=help_text)


SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="port",
        kind="value",
        parse=parse_port,
        default=None,
        short="-p",
        metavar="PORT",
        help="TCP and UDP port; 0 is any, and without this option it is the same one every time",
    ),
    Setting(
        name="bind",
        kind="value",
        parse=_text,
        default=None,
        metavar="ADDR|IFACE",
        help="send and receive through this address or interface only, and never around it",
    ),
    Setting(
        name="announce-port",
        kind="value",
        parse=parse_outside_port,
        default=None,
        metavar="N",
        help="port that trackers and peers are told, if a manual forward uses another one outside",
    ),
    Setting(
        name="download-rate",
        kind="value",
        parse=parse_rate,
        default=0,
        short="-d",
        metavar="RATE",
        help="at most so many bytes per second, as in 500k, 1.5M or 2G; 0 is unlimited",
    ),
    Setting(
        name="upload-rate",
        kind="value",
        parse=parse_rate,
        default=0,
        short="-u",
        metavar="RATE",
        help="the same for what is sent",
    ),
    Setting(
        name="encryption",
        kind="value",
        parse=_encryption,
        default="prefer",
        metavar="|".join(ENCRYPTION),
        choices=ENCRYPTION,
        help="prefer: plain first, both accepted (default); require: encrypted or not at all; off: plain only",
    ),
    _switch("tcp", "no TCP to peers"),
    _switch("utp", "no µTP to peers"),
    _switch("dht", "do not look for peers in the DHT"),
    _switch("pex", "do not exchange peers with peers"),
    _switch("lsd", "do not look for peers in the local network"),
    _switch("mapping", "do not ask the router to open the port"),
    _switch("punch", "do not punch holes into NATs"),
    _switch("birthday", "do not open 256 sockets at once to meet peers through NATs with random ports"),
    _switch("relay", "do not use relays"),
    _switch("trackers", "do not ask trackers"),
    Setting(
        name="dht-bootstrap",
        kind="list",
        parse=parse_host_port,
        default=(),
        metavar="HOST:PORT",
        help="a node to enter the DHT by, instead of the public ones",
    ),
    Setting(
        name="stun",
        kind="list",
        parse=parse_host_port,
        default=(),
        metavar="HOST:PORT",
        help="a STUN server to learn our outside address and the behaviour of our NAT from",
    ),
    Setting(
        name="turn",
        kind="list",
        parse=parse_turn,
        default=(),
        metavar="URI",
        help="a TURN server to be relayed by where nothing else reaches a peer: turn:USER:PASSWORD@HOST:PORT, with "
        "?transport=udp or tcp for only one of them, or turns: for TLS; better given in SWARM_TURN or the "
        "configuration file, where other users of this machine do not see it",
        secret=True,
    ),
    Setting(
        name="relay-serve",
        kind="switch",
        parse=parse_boolean,
        default=False,
        help="carry data between peers that cannot meet, within limits, while strangers can reach us",
    ),
    Setting(
        name="relay-limits",
        kind="value",
        parse=parse_relay_limits,
        default=None,
        metavar="NAME=VALUE,...",
        help="the limits, where they are to be others: circuits (64), per-client (4), total-rate (8 MiB/s), and of "
        "each circuit rate (1 MiB/s), bytes (1 GiB) and time (2h); as in circuits=16,rate=500k",
    ),
    Setting(
        name="output",
        kind="value",
        parse=_path,
        default=Path("."),
        short="-o",
        metavar="DIR",
        help="where the data is: a torrent called x is DIR/x",
        network=False,
    ),
    Setting(
        name="timeout",
        kind="value",
        parse=parse_duration,
        default=None,
        metavar="T",
        help="give up (exit code 5) when nothing moved for so long, as in 90s, 5m or 2h",
        network=False,
    ),
    Setting(
        name="rpc",
        kind="list",
        parse=_text,
        default=(),
        metavar="HOST:PORT|unix:PATH",
        help="where the daemon is spoken to; without this option it is $XDG_RUNTIME_DIR/swarm.sock and 127.0.0.1:9091",
        network=False,
    ),
    Setting(
        name="rpc-user",
        kind="value",
        parse=_text,
        default=None,
        metavar="U",
        help="the name that goes with the password; without this option any does",
        network=False,
    ),
    Setting(
        name="rpc-password-file",
        kind="value",
        parse=_path,
        default=None,
        metavar="F",
        help="a file whose first line is the password for speaking to the daemon",
        network=False,
    ),
    Setting(
        name="rpc-host-names",
        kind="list",
        parse=_host_name,
        default=(),
        metavar="NAME",
        help="a host name by which the daemon may be asked without a password, beside localhost and addresses; "
        "*.NAME is all names below, * any name at all",
        network=False,
    ),
    Setting(
        name="watch",
        kind="value",
        parse=_path,
        default=None,
        metavar="DIR",
        help="add the .torrent and .magnet files that appear in DIR, and rename them to *.added",
        network=False,
    ),
)
