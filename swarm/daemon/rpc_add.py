"""Transmission's ``torrent-add``: from a path, an http(s) URL, a magnet link, or the torrent itself as base64."""

from __future__ import annotations

import os
import stat
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

import trio

from swarm.daemon.entry import Entry, Wishes
from swarm.daemon.rpc_arguments import Arguments, RpcError
from swarm.daemon.rpc_torrents import read_wishes
from swarm.daemon.session import AlreadyThere, Session
from swarm.errors import MetainfoError
from swarm.net.http import HttpError, fetch
from swarm.source import is_url, read_source
from swarm.torrent.disk import Runner
from swarm.torrent.magnet import Magnet
from swarm.torrent.metainfo import MAX_TORRENT_SIZE, Metainfo, parse_torrent_untrusted

FETCH_SECONDS = 60.0
MAX_COOKIES = 8_000  # characters
MAX_INDEX = 1_000_000  # of a file that nobody knows of yet


class Adding:
    """Adds to ``session``; ``runner`` reads and parses, which may take a second for the largest torrents."""

    def __init__(self, session: Session, runner: Runner) -> None:
        self._session = session
        self._runner = runner

    async def add(self, arguments: Arguments) -> Mapping[str, Any]:
        """``torrent-added``, or ``torrent-duplicate``, which is a success as well."""
        directory = arguments.path("download-dir") if arguments.text("download-dir") else None
        if directory is not None and not directory.is_absolute():
            raise RpcError("download directory path is not absolute")
        paused = arguments.flag("paused")
        wishes = read_wishes(arguments)
        source = await self._source(arguments)
        wishes |= _files_of(arguments, source)
        try:
            entry = await self._session.add(source, directory=directory, paused=paused, wishes=Wishes(**wishes))
        except AlreadyThere as error:
            return {"torrent-duplicate": _told(error.entry)}
        return {"torrent-added": _told(entry)}

    async def _source(self, arguments: Arguments) -> Metainfo | Magnet:
        filename, metainfo = arguments.text("filename"), arguments.text("metainfo")
        if filename:
            if is_url(filename):
                return await self._fetched(filename, arguments.text("cookies"))
            if filename == "-" or "\0" in filename:
                raise RpcError("unrecognized info")
            return await self._runner(_read_here, filename)
        if not metainfo:
            raise RpcError("no filename or metainfo specified")
        return await self._runner(_parse_base64_untrusted, metainfo)

    async def _fetched(self, url: str, cookies: str | None) -> Metainfo:
        if cookies is not None and not (cookies.isascii() and cookies.isprintable() and len(cookies) <= MAX_COOKIES):
            raise RpcError("cookies: printable ASCII is expected")
        headers = [("Cookie", cookies.strip())] if cookies and cookies.strip() else []
        with trio.move_on_after(FETCH_SECONDS):
            try:
                network = self._session.node.network
                response = await fetch(network, url, max_body=MAX_TORRENT_SIZE, private_headers=headers)
            except HttpError as error:
                raise RpcError(f"cannot fetch {url[:200]}: {error}") from error
            return await self._runner(parse_torrent_untrusted, response.body)
        raise RpcError(f"cannot fetch {url[:200]}: no answer within {FETCH_SECONDS:.0f} s")


def _read_here(filename: str) -> Metainfo | Magnet:
    """A link, or a file of this machine.  Nothing but a file is opened: a FIFO would keep its thread for ever."""
    try:
        if not stat.S_ISREG(os.stat(filename).st_mode):
            raise MetainfoError(f"{filename[:200]}: this is no file")
    except OSError:  # no path, then; or the same error again, in words
        pass
    return read_source(filename)


def _parse_base64_untrusted(text: str) -> Metainfo:
    """Line breaks may be in it, and its padding may be missing: clients differ."""
    packed = "".join(text.split())
    try:
        data = b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except ValueError:  # binascii.Error, and text that is not ASCII
        raise MetainfoError("metainfo: this is no base64") from None
    return parse_torrent_untrusted(data)


def _files_of(arguments: Arguments, source: Metainfo | Magnet) -> dict[str, Any]:
    """Here an empty list says nothing, other than in ``torrent-set``."""
    names = ("files-unwanted", "files-wanted", "priority-high", "priority-low", "priority-normal")
    most = len(source.files) if isinstance(source, Metainfo) else MAX_INDEX
    given = {name: frozenset(arguments.integers(name) or ()) for name in names}
    if any(not 0 <= index < most for indices in given.values() for index in indices):
        raise RpcError("file index out of range")
    # Transmission applies them in the order low, normal, high, so that the last one counts.
    return {
        "unwanted": given["files-unwanted"] - given["files-wanted"],
        "high": given["priority-high"],
        "low": given["priority-low"] - given["priority-normal"] - given["priority-high"],
    }


def _told(entry: Entry) -> dict[str, Any]:
    return {"hashString": entry.info_hash.hex(), "id": entry.id, "name": entry.name}
