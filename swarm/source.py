"""What SOURCE stands for: a path, an http(s) URL of a .torrent, a magnet link, 40 hex digits, or ``-``.

Reading is synchronous but for URLs.  Getting the metadata of a magnet link from peers is not done here.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from swarm.errors import MetainfoError, StorageError, SwarmError
from swarm.torrent.magnet import Magnet, parse_magnet
from swarm.torrent.metainfo import MAX_TORRENT_SIZE, Metainfo, parse_torrent_untrusted

if TYPE_CHECKING:
    from swarm.net.network import Network

_BARE_HASH = re.compile(r"[0-9A-Fa-f]{40}").fullmatch
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://").match


def is_url(source: str) -> bool:
    """Whether ``source`` has to be fetched, with `fetch_source`."""
    return source[:8].lower().startswith(("http://", "https://"))


def read_source(source: str | os.PathLike[str], stdin: BinaryIO | None = None) -> Metainfo | Magnet:
    """The torrent or link that a local ``source`` is; ``-`` reads either from ``stdin``, or the process's own.

    A file called like an info-hash is read by ``./HASH``.  Raises MetainfoError for what is no torrent and no link, and
    StorageError for what cannot be read.
    """
    if not isinstance(source, str):
        return _parse(os.fspath(source), _read(Path(source)))
    if source == "-":
        return _parse_either((stdin or sys.stdin.buffer).read(MAX_TORRENT_SIZE + 1))
    if source[:7].lower() == "magnet:" or _BARE_HASH(source):
        return parse_magnet(source)
    if (scheme := _SCHEME(source)) is not None:
        raise MetainfoError(f"a torrent is not fetched by {scheme[1]}, only by http, https or as a magnet link")
    return _parse(source, _read(Path(source)))


async def fetch_source(url: str, network: Network) -> Metainfo:
    """The torrent that an http(s) URL leads to.

    Raises SwarmError when it cannot be fetched and MetainfoError when it is none.  Cancellation ends the connection.
    """
    from swarm.net.http import HttpError, fetch

    try:
        response = await fetch(network, url, max_body=MAX_TORRENT_SIZE)
    except HttpError as error:
        raise SwarmError(f"cannot fetch {url}: {error}") from error
    return _parse(url, response.body)


async def load_source(source: str | os.PathLike[str], network: Network) -> Metainfo | Magnet:
    """`fetch_source` or `read_source`, whichever it takes."""
    if isinstance(source, str) and is_url(source):
        return await fetch_source(source, network)
    return read_source(source)


def metainfo_of(source: str | os.PathLike[str], loaded: Metainfo | Magnet) -> Metainfo:
    """``loaded`` if it is a whole torrent.  SwarmError for a link, whose metadata peers would have to send."""
    if isinstance(loaded, Magnet):
        raise MetadataNeededError(
            f"{_short(str(source))} is a magnet link, and this takes a torrent file: "
            "'swarm download --save-torrent' writes one"
        )
    return loaded


class MetadataNeededError(SwarmError):
    """A magnet link was given where a torrent is needed."""

    code = 2


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_TORRENT_SIZE + 1)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # an embedded NUL
        raise StorageError(f"cannot read {str(path)!r}: {error}") from error


def _parse_either(data: bytes) -> Metainfo | Magnet:
    text = data.strip()
    if text[:7].lower() == b"magnet:" or (len(text) == 40 and _BARE_HASH(text.decode("latin-1"))):
        return parse_magnet(text.decode(errors="replace"))
    return _parse("standard input", data)


def _parse(source: str, data: bytes) -> Metainfo:
    try:
        return parse_torrent_untrusted(data)
    except MetainfoError as error:
        raise MetainfoError(f"{_short(source)}: {error}") from None


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
