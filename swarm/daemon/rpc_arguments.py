"""The arguments of one call of Transmission's RPC, read by name and type.

JSON in, Python values out.  Absent and null are one and the same; what is of another type than expected is an error
that names the argument (Transmission passes over it, and the user wonders).  As with Transmission a switch may also be
0, 1, "true" or "false".  Arguments that nobody asks for are ignored: every client knows some that are newer or older.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swarm.errors import SwarmError

MAX_VALUES = 1_000_000
"""Commas and brackets in a request: what bounds the objects made of it, whatever its size."""

MAX_NUMBER = 1 << 53
"""Integers beyond it lose digits in every client that is written in JavaScript."""

_FLAGS = {True: True, False: False, "true": True, "false": False}  # 1 and 0 equal True and False


class RpcError(SwarmError):
    """The answer is an error: its text goes where "success" would, ``arguments`` beside it."""

    def __init__(self, result: str, arguments: Mapping[str, Any] | None = None) -> None:
        super().__init__(result)
        self.arguments = arguments or {}


def parse_request_untrusted(body: bytes) -> Mapping[str, Any]:
    """The object that a request is; RpcError for what is none."""
    if body.count(b",") + body.count(b"[") + body.count(b"{") > MAX_VALUES:
        raise RpcError("the request has too many values")
    try:
        request = json.loads(body, parse_constant=_no_number)
    except RecursionError:
        raise RpcError("the request is nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, a number of more than 4,300 digits
        raise RpcError(f"the request is no JSON: {error}"[:200]) from None
    if not isinstance(request, dict):
        raise RpcError("the request is no object")
    return request


class Arguments:
    """Reads ``values``.  Every method returns None for what is absent and raises RpcError for a wrong type."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def get(self, name: str) -> Any:
        """As it came."""
        return self._values.get(name)

    def text(self, name: str) -> str | None:
        value = self._values.get(name)
        return None if value is None else _text(name, value)

    def path(self, name: str) -> Path | None:
        """A path of this machine."""
        text = self.text(name)
        if text is None:
            return None
        if "\0" in text:
            raise RpcError(f"{name}: a path without NUL is expected")
        return Path(text)

    def flag(self, name: str) -> bool | None:
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, bool | int | str) or value not in _FLAGS:
            raise RpcError(f"{name}: true or false is expected")
        return _FLAGS[value]

    def integer(self, name: str, low: int = 0, high: int = MAX_NUMBER) -> int | None:
        """``low`` to ``high``, without its fraction: Flood divides rates by 1024, and some know floats only."""
        value = self._values.get(name)
        if isinstance(value, float) and math.isfinite(value):
            value = math.floor(value)
        if value is None:
            return None
        if not _is_integer(value) or not low <= value <= high:
            raise RpcError(f"{name}: an integer from {low} to {high} is expected")
        return int(value)

    def number(self, name: str, low: float = 0.0, high: float = float(MAX_NUMBER)) -> float | None:
        """``low`` to ``high``."""
        value = self._values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise RpcError(f"{name}: a number from {low:g} to {high:g} is expected")
        return float(value)

    def array(self, name: str) -> list[Any] | None:
        value = self._values.get(name)
        if value is not None and not isinstance(value, list):
            raise RpcError(f"{name}: a list is expected")
        return value

    def texts(self, name: str) -> list[str] | None:
        values = self.array(name)
        return None if values is None else [_text(name, value) for value in values]

    def integers(self, name: str) -> list[int] | None:
        values = self.array(name)
        if values is not None and not all(map(_is_integer, values)):
            raise RpcError(f"{name}: a list of integers is expected")
        return values


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise RpcError(f"{name}: a string is expected")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON can write half a surrogate pair, which nothing here could store
            raise RpcError(f"{name}: this is no Unicode") from None
    return value


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def finite(value: float, otherwise: float) -> float:
    """JSON has no infinity."""
    return value if math.isfinite(value) else otherwise
