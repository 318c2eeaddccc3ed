"""``swarm magnet SOURCE``: the magnet link of a torrent (BEP 9)."""

from __future__ import annotations

from argparse import Namespace

from swarm.cli.load import load
from swarm.cli.output import say
from swarm.torrent.magnet import format_magnet


def run(options: Namespace) -> int:
    say(format_magnet(load(options.source)))
    return 0
