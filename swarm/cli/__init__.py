"""The command line.  Printing and progress live here and nowhere else; importing this costs argparse and no more."""

from __future__ import annotations

from swarm.cli.main import main

__all__ = ["main"]
