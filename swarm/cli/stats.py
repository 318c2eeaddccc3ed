"""``swarm stats [--json | --prometheus] [FILE]``: how we reach peers and why not, from a saved statistics document."""

from __future__ import annotations

import sys
from argparse import Namespace

from swarm.cli.bars import page_for
from swarm.cli.document import as_text, read_document
from swarm.cli.output import say
from swarm.cli.tables import tables
from swarm.errors import DaemonUnreachableError
from swarm.stats.prometheus import prometheus_text


def run(options: Namespace) -> int:
    if options.file is None:
        raise DaemonUnreachableError(
            "this version has no daemon to ask; name a FILE that --stats has written, or - for standard input"
        )
    document = read_document(options.file)
    if options.json:
        say(as_text(document))
    elif options.prometheus:
        say(prometheus_text(document), end="")
    else:
        for line in tables(document, page_for(sys.stdout)):
            say(line)
    return 0
