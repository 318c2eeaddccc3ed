"""``swarm add SOURCE...``: give torrents to the daemon."""

from __future__ import annotations

import base64
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from swarm.cli.output import say
from swarm.cli.remote import Remote, remote_of
from swarm.cli.units import printable
from swarm.errors import DaemonUnreachableError, SwarmError
from swarm.source import is_url, read_source
from swarm.torrent.magnet import Magnet, format_magnet
from swarm.torrent.metainfo import encode_torrent


def run(options: Namespace) -> int:
    """What cannot be added is told of, and the others are added; the exit code is that of the first that could not."""
    remote = remote_of(options)
    arguments: dict[str, Any] = {}
    if options.output is not None:
        arguments["download-dir"] = str(Path(options.output).absolute())
    if options.paused:
        arguments["paused"] = True
    code = 0
    for source in options.sources:
        try:
            _add(remote, source, arguments)
        except DaemonUnreachableError:
            raise
        except SwarmError as error:
            print(f"swarm: error: {printable(str(error))}", file=sys.stderr)
            code = code or error.code
    return code


def _add(remote: Remote, source: str, arguments: dict[str, Any]) -> None:
    answer = remote.call("torrent-add", **_named(source), **arguments)
    if (known := answer.get("torrent-duplicate")) is not None:
        print(f"swarm: {_shown(known)} was there already", file=sys.stderr)
    else:
        say(f"added {_shown(answer['torrent-added'])}")


def _named(source: str) -> dict[str, str]:
    """What the daemon is told: links and URLs as they stand, files by their content, since it may not read them."""
    if is_url(source):
        return {"filename": source}
    loaded = read_source(source)
    if isinstance(loaded, Magnet):
        return {"filename": format_magnet(loaded)}
    return {"metainfo": base64.b64encode(encode_torrent(loaded)).decode()}


def _shown(torrent: dict[str, Any]) -> str:
    return f"{torrent['id']}  {printable(str(torrent['name']))}"
