"""``swarm list [--json]``: the torrents of the daemon, a line each."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from swarm.cli.output import say
from swarm.cli.remote import chosen, remote_of
from swarm.cli.units import format_bytes, format_rate, printable

FIELDS = ("id", "name", "hashString", "status", "percentDone", "sizeWhenDone", "rateDownload", "rateUpload",
          "uploadRatio", "peersConnected", "errorString", "downloadDir")  # fmt: skip

STATUS = ("stopped", "waits to be checked", "checking", "waits", "downloading", "waits to seed", "seeding")


def run(options: Namespace) -> int:
    torrents = chosen(remote_of(options), (), FIELDS if options.json else (*FIELDS, "trackerStats"))
    if options.json:
        say(json.dumps({"torrents": torrents}, indent=2, ensure_ascii=False))
        return 0
    if not torrents:
        say("the daemon has no torrent; 'swarm add' gives it one")
        return 0
    for line in table(torrents):
        say(line)
    return 0


def table(torrents: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each, under a head; what is wrong with one stands below it."""
    rows = [("ID", "DONE", "SIZE", "DOWN", "UP", "PEERS", "STATUS", "NAME"), *(_row(each) for each in torrents)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row, error in zip(rows, ["", *map(_trouble, torrents)], strict=True):
        cells = [cell.rjust(width) for cell, width in zip(row[:6], widths, strict=False)]
        lines.append("  ".join([*cells, row[6].ljust(widths[6]), row[7]]).rstrip())
        if error:
            lines.append(f"{' ' * widths[0]}  {printable(error)}")
    return lines


def _trouble(torrent: dict[str, Any]) -> str:
    """Its error, or what a tracker of it came to where none has answered."""
    if error := str(torrent["errorString"]):
        return error
    trackers = torrent["trackerStats"]
    if any(each["lastAnnounceSucceeded"] for each in trackers):
        return ""
    return next((f"{each['host']}: {each['lastAnnounceResult']}" for each in trackers if each["hasAnnounced"]), "")


def _row(torrent: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(torrent["id"]),
        f"{int(torrent['percentDone'] * 1000) / 10:g}%",
        format_bytes(torrent["sizeWhenDone"]),
        format_rate(torrent["rateDownload"]) if torrent["rateDownload"] else "-",
        format_rate(torrent["rateUpload"]) if torrent["rateUpload"] else "-",
        str(torrent["peersConnected"]),
        STATUS[torrent["status"]],
        printable(str(torrent["name"])),
    )
