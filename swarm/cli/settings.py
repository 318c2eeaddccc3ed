"""What the node is told, from four places: command line, then ``SWARM_*``, then config.toml, then defaults.

One table, `SETTINGS`, says of each setting what it is called in each place and how its value is read; the parser takes
its options from it.  `$XDG_CONFIG_HOME/swarm/config.toml` holds the settings by name, without tables:

    port = 51413
    upload-rate = "2M"
    lsd = false

A key nobody knows and a value that cannot be are errors; an environment variable nobody knows is not ours.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from swarm.cli.commands import suggestion
from swarm.cli.units import parse_boolean, parse_duration, parse_outside_port, parse_port, parse_rate, printable
from swarm.errors import UsageError

if TYPE_CHECKING:
    from swarm.config import Config

Environment = Mapping[str, str]
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
        name="output",
        kind="value",
        parse=lambda text: Path(_text(text)).expanduser(),
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
        parse=lambda text: Path(_text(text)).expanduser(),
        default=None,
        metavar="F",
        help="a file whose first line is the password for speaking to the daemon",
        network=False,
    ),
    Setting(
        name="watch",
        kind="value",
        parse=lambda text: Path(_text(text)).expanduser(),
        default=None,
        metavar="DIR",
        help="add the .torrent and .magnet files that appear in DIR, and rename them to *.added",
        network=False,
    ),
)

_BY_NAME = {setting.name: setting for setting in SETTINGS}


class Settings(NamedTuple):
    """The settled value of every setting, by its name, and where it comes from (empty: the default)."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]

    @property
    def output(self) -> Path:
        output: Path = self.values["output"]
        return output

    @property
    def timeout(self) -> float | None:
        timeout: float | None = self.values["timeout"]
        return timeout

    def config(self, state: Path | None) -> Config:
        """For `swarm.node.open_node`, which keeps its things in ``state``.

        UsageError if what is asked for cannot be had together.
        """
        from swarm.config import Config

        if not self.values["tcp"] and not self.values["utp"]:
            raise UsageError("no peer can be reached with TCP and µTP both off: leave out --no-tcp or --no-utp")
        if self.values["turn"] and not self.values["utp"]:
            raise UsageError("what a TURN server relays is µTP: leave out --no-utp or --turn")
        node = {setting.attribute: self.values[setting.name] for setting in SETTINGS if setting.network}
        return Config(state_directory=state, **node)


def settle(given: Mapping[str, Any], environment: Environment = os.environ, file: Path | None = None) -> Settings:
    """Settle every setting; ``given`` are the command line's, by attribute, None where an option was not used.

    ``file`` is read instead of the usual configuration, and has to be there.
    Raises UsageError for a value that cannot be, wherever it stands, and for an unknown key of the configuration file.
    """
    if file is not None and not file.exists():
        raise UsageError(f"cannot read {file}: it does not exist")
    path = config_path(environment) if file is None else file
    layers = [
        _from_command_line(given),
        _from_environment(environment),
        _from_file(path),
        {setting.name: (setting.default, "") for setting in SETTINGS},
    ]
    values, origins = {}, {}
    for setting in SETTINGS:
        found = next(layer[setting.name] for layer in layers if setting.name in layer)
        values[setting.name], origins[setting.name] = found
    return Settings(values, origins)


def config_path(environment: Environment = os.environ) -> Path:
    """``$XDG_CONFIG_HOME/swarm/config.toml``."""
    return _xdg(environment, "XDG_CONFIG_HOME", ".config") / "swarm" / "config.toml"


def state_directory(environment: Environment = os.environ) -> Path:
    """``$XDG_STATE_HOME/swarm``."""
    return _xdg(environment, "XDG_STATE_HOME", ".local/state") / "swarm"


def _xdg(environment: Environment, variable: str, default: str) -> Path:
    """The base directory specification: what is unset, empty or relative does not count."""
    given = environment.get(variable, "")
    if os.path.isabs(given):
        return Path(given)
    home = environment.get("HOME") or os.path.expanduser("~")
    return Path(home) / default


_Layer = dict[str, tuple[Any, str]]
"""Value and origin by name."""


def _from_command_line(given: Mapping[str, Any]) -> _Layer:
    return {
        setting.name: (tuple(value) if setting.kind == "list" else value, setting.option)
        for setting in SETTINGS
        if (value := given.get(setting.attribute)) is not None
    }


def _from_environment(environment: Environment) -> _Layer:
    layer: _Layer = {}
    for setting in SETTINGS:
        text = environment.get(setting.variable)
        if text:  # empty is unset, as everywhere
            layer[setting.name] = (_read(setting, text, setting.variable), setting.variable)
    return layer


def _read(setting: Setting, text: str, origin: str) -> object:
    try:
        if setting.kind == "list":
            return tuple(setting.parse(part) for part in text.replace(",", " ").split())
        return setting.parse(text)
    except ValueError as error:
        raise UsageError(f"{origin}: {error}") from None


def _from_file(path: Path) -> _Layer:
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    import tomllib

    try:
        table = tomllib.loads(text.decode())
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    layer: _Layer = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if name not in _BY_NAME:
            raise UsageError(f"{path} has the unknown key {printable(key)!r}{suggestion(name, _BY_NAME)}")
        origin = f"{key} in {path}"
        layer[name] = (_from_toml(_BY_NAME[name], value, origin), origin)
    return layer


def _from_toml(setting: Setting, value: object, origin: str) -> object:
    match setting.kind, value:
        case "switch", bool():
            return value
        case "switch", _:
            raise UsageError(f"{origin} is true or false, not {value!r}")
        case "list", list() if all(isinstance(part, str) for part in value):
            return tuple(_read_one(setting, part, origin) for part in value)
        case "list", _ if setting.secret:
            raise UsageError(f"{origin} is a list of texts")
        case "list", _:
            raise UsageError(f"{origin} is a list of texts, not {value!r}")
        case _, bool():
            raise UsageError(f"{origin} is {setting.metavar}, not {str(value).lower()}")
        case _, str() | int() | float():
            return _read_one(setting, str(value), origin)
        case _:
            raise UsageError(f"{origin} is {setting.metavar}, not {value!r}")


def _read_one(setting: Setting, text: str, origin: str) -> object:
    try:
        return setting.parse(text)
    except ValueError as error:
        raise UsageError(f"{origin}: {error}") from None
