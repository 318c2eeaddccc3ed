"""``swarm stats [--json | --prometheus] [FILE]``: how peers are reached and why not, of the daemon or a saved file."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

from swarm.cli.bars import page_for
from swarm.cli.document import as_text, read_document
from swarm.cli.output import say
from swarm.cli.tables import tables
from swarm.stats.prometheus import prometheus_text


def run(options: Namespace) -> int:
    document = _of_daemon(options) if options.file is None else read_document(options.file)
    if options.json:
        say(as_text(document))
    elif options.prometheus:
        say(prometheus_text(document), end="")
    else:
        for line in tables(document, page_for(sys.stdout)):
            say(line)
    return 0


def _of_daemon(options: Namespace) -> dict[str, Any]:
    from swarm.cli.remote import remote_of

    return remote_of(options).call("swarm-connectivity")
