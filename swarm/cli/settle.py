"""The value of every setting, from four places: command line, then ``SWARM_*``, then config.toml, then defaults.

`$XDG_CONFIG_HOME/swarm/config.toml` holds the settings by name, without tables:

    port = 51413
    upload-rate = "2M"
    lsd = false

A key nobody knows and a value that cannot be are errors; an environment variable nobody knows is not ours.
What can be set is `swarm.cli.settings`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from swarm.cli.commands import suggestion
from swarm.cli.settings import SETTINGS, Setting
from swarm.cli.units import printable
from swarm.errors import UsageError

if TYPE_CHECKING:
    from swarm.config import Config

Environment = Mapping[str, str]

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
        if node["relay_limits"] is None:
            del node["relay_limits"]
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
    if setting.kind == "list":
        return tuple(_read_one(setting, part, origin) for part in text.replace(",", " ").split())
    return _read_one(setting, text, origin)


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
