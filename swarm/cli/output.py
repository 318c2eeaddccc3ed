"""Standard output, where what was asked for goes; progress and complaints go to standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from swarm.errors import StorageError


class OutputError(StorageError):
    """Standard output cannot be written: the disk behind it is full."""


def say(text: str, *, end: str = "\n", flush: bool = False) -> None:
    """Print.  OutputError if it cannot be written; BrokenPipeError, as ever, if the reader is gone."""
    with _output_errors():
        print(text, end=end, flush=flush)


def say_bytes(data: bytes) -> None:
    """Write what is not text; errors as with `say`."""
    with _output_errors():
        sys.stdout.buffer.write(data)


@contextmanager
def _output_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to standard output: {error.strerror}") from error
