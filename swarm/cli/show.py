"""``swarm show SOURCE [--json]``: what a torrent or a magnet link says.

Names and texts come from strangers: whatever a terminal would obey is escaped.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from swarm.cli.load import load
from swarm.cli.output import say
from swarm.cli.units import counted, format_binary, format_bytes, printable
from swarm.torrent.filelist import FileEntry
from swarm.torrent.magnet import Magnet
from swarm.torrent.metainfo import Metainfo

LABEL_WIDTH = 12  # columns


def run(options: Namespace) -> int:
    source = load(options.source)
    if options.json:
        say(json.dumps(link_as_json(source) if isinstance(source, Magnet) else as_json(source), indent=2))
        return 0
    for line in link_as_text(source) if isinstance(source, Magnet) else as_text(source):
        say(line)
    return 0


def as_json(metainfo: Metainfo) -> dict[str, Any]:
    """The keys of the shared interface, and ``notes``."""
    return {
        "name": metainfo.name,
        "info_hash": metainfo.info_hash.hex(),
        "info_hash_v2": None if metainfo.info_hash_v2 is None else metainfo.info_hash_v2.hex(),
        "version": metainfo.version,
        "total_size": metainfo.total_size,
        "piece_length": metainfo.piece_length,
        "pieces": metainfo.piece_count,
        "private": metainfo.private,
        "trackers": [list(tier) for tier in metainfo.trackers],
        "web_seeds": list(metainfo.web_seeds),
        "created_by": metainfo.created_by,
        "creation_date": metainfo.creation_date,
        "comment": metainfo.comment,
        "files": [{"path": "/".join(file.path), "size": file.size} for file in listed_files(metainfo)],
        "notes": list(metainfo.notes),
    }


def link_as_json(magnet: Magnet) -> dict[str, Any]:
    """The same keys; null is what a link does not say."""
    return {
        "name": magnet.name,
        "info_hash": magnet.info_hash.hex(),
        "info_hash_v2": None if magnet.info_hash_v2 is None else magnet.info_hash_v2.hex(),
        "version": "1" if magnet.info_hash_v2 is None else "hybrid",
        "total_size": None,
        "piece_length": None,
        "pieces": None,
        "private": None,
        "trackers": [[url] for url in magnet.trackers],
        "web_seeds": list(magnet.web_seeds),
        "created_by": None,
        "creation_date": None,
        "comment": None,
        "files": None,
        "peers": [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in magnet.peers],
    }


def listed_files(metainfo: Metainfo) -> list[FileEntry]:
    """The files that people see, in the order in which they are numbered from 1; pad files are left out."""
    return [file for file in metainfo.files if not file.pad]


def as_text(metainfo: Metainfo) -> Iterator[str]:
    yield _line("name", metainfo.name)
    yield _line("info-hash", metainfo.info_hash.hex())
    if metainfo.info_hash_v2 is not None:
        yield _line("v2", metainfo.info_hash_v2.hex())
    yield _line("size", f"{format_bytes(metainfo.total_size)} ({metainfo.total_size:,} bytes)")
    yield _line("pieces", f"{metainfo.piece_count:,} of {format_binary(metainfo.piece_length)}")
    if metainfo.private:
        yield _line("private", "yes: peers come from its trackers only")
    for number, tier in enumerate(metainfo.trackers):
        yield _line("trackers" if number == 0 else "", "  ".join(tier))
    if not metainfo.trackers:
        yield _line("trackers", "none")
    for number, url in enumerate(metainfo.web_seeds):
        yield _line("web seeds" if number == 0 else "", url)
    if created := _created(metainfo):
        yield _line("created", created)
    if metainfo.comment:
        yield _line("comment", metainfo.comment)
    for number, note in enumerate(metainfo.notes):
        yield _line("notes" if number == 0 else "", note)
    yield from _file_table(metainfo)


def link_as_text(magnet: Magnet) -> Iterator[str]:
    yield _line("name", magnet.name or "not said")
    yield _line("info-hash", magnet.info_hash.hex())
    if magnet.info_hash_v2 is not None:
        yield _line("v2", magnet.info_hash_v2.hex())
    for number, url in enumerate(magnet.trackers or ("none",)):
        yield _line("trackers" if number == 0 else "", url)
    for number, url in enumerate(magnet.web_seeds):
        yield _line("web seeds" if number == 0 else "", url)
    for number, (host, port) in enumerate(magnet.peers):
        yield _line("peers" if number == 0 else "", f"{host} port {port}")
    yield _line("files", "not known: a link names the torrent, its metadata comes from peers")


def _line(label: str, text: str) -> str:
    return f"{label:{LABEL_WIDTH}}{printable(text)}"


def _created(metainfo: Metainfo) -> str:
    parts = []
    if metainfo.creation_date is not None:
        parts.append(_date(metainfo.creation_date))
    if metainfo.created_by:
        parts.append(f"by {metainfo.created_by}")
    return " ".join(parts)


def _date(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):  # a year that no calendar has
        return f"{seconds} seconds after 1970"


def _file_table(metainfo: Metainfo) -> Iterator[str]:
    files = listed_files(metainfo)
    yield _line("files", counted(len(files), "file"))
    digits = max(3, len(str(len(files))))
    sizes = [format_bytes(file.size) for file in files]
    width = max(len(size) for size in sizes)
    for number, (file, size) in enumerate(zip(files, sizes, strict=True), 1):
        path = "/".join(file.path if metainfo.single_file else file.path[1:])
        yield f"{number:{digits}}  {size:>{width}}  {printable(path)}"
