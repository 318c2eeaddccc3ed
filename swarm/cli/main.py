"""From arguments to an exit code: finds the command, runs it, and tells its errors in one sentence each.

Exit codes are those of the shared interface: the ``code`` of the SwarmError, and 128 + N after signal N.
Tracebacks are shown with ``-v`` only.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from types import TracebackType

from swarm.cli import commands
from swarm.errors import StorageError, SwarmError, UsageError

INTERRUPTED = 130  # 128 + SIGINT
OTHER = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line, without the program's name (default: this process's); the exit code.

    Raises nothing that the user could have caused.  A bug passes through: for the program itself it ends in
    `_excepthook`, which keeps the traceback for ``-v``.
    """
    if arguments is None:
        arguments = sys.argv[1:]
        sys.excepthook = _excepthook
    started = time.monotonic()

    def clock() -> float:
        return time.monotonic() - started

    verbose = any(word in ("-v", "--verbose") for word in arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name may hold what the terminal's encoding does not
    try:
        code = _run(list(arguments), clock)
        sys.stdout.flush()
        return code
    except BaseException as raised:
        error = unwrapped(raised)
        if isinstance(error, BrokenPipeError):
            _forget_stdout()
            return OTHER
        if isinstance(error, StorageError) or _stdout_fails():
            from swarm.cli.output import OutputError

            if isinstance(error, OSError):  # the flush at the end of what was printed into a buffer
                error = OutputError(f"cannot write to standard output: {error.strerror}")
            if isinstance(error, OutputError):
                _forget_stdout()
        if not isinstance(error, (SwarmError, KeyboardInterrupt)):
            raise
        if verbose:
            _print_traceback(error)
        if isinstance(error, KeyboardInterrupt):
            return INTERRUPTED
        _print_error(error, arguments, clock())
        return error.code


def unwrapped(error: BaseException) -> BaseException:
    """What was really raised: groups of one are opened, and a group of our errors alone stands for its first."""
    while isinstance(error, BaseExceptionGroup):
        ours = error.subgroup((SwarmError, KeyboardInterrupt, BrokenPipeError))
        if len(error.exceptions) > 1 and (ours is None or len(_leaves(ours)) != len(_leaves(error))):
            return error
        error = error.exceptions[0]
    return error


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


def _run(arguments: list[str], clock: Callable[[], float]) -> int:
    match arguments:
        case []:
            print(commands.overview(), file=sys.stderr)
            return UsageError.code
        case ["-h" | "--help", *_] | ["help"]:
            print(commands.overview())
            return 0
        case ["-V" | "--version", *_]:
            print(commands.version())
            return 0
        case ["help", name, *_]:
            name, rest = name, ["--help"]
        case [name, *rest]:
            pass
    command = commands.find(name)
    from swarm.cli import parser

    try:
        options = parser.build(command).read(rest)
    except SystemExit as left:  # argparse leaves so after --help
        return int(left.code or 0)
    options.clock = clock  # seconds since the start, for what is told
    code: int = import_module(command.module).run(options)
    return code


def _print_error(error: SwarmError, arguments: Sequence[str], seconds: float) -> None:
    from swarm.cli.units import printable

    message = printable(str(error))
    if "--json" in arguments and arguments[0] in ("download", "seed"):
        from swarm.cli.jsonlines import print_error

        print_error(seconds, error.code, message)
    print(f"swarm: error: {message}", file=sys.stderr)


def _print_traceback(error: BaseException) -> None:
    import traceback

    traceback.print_exception(error)


def _stdout_fails() -> bool:
    """Whether what was printed cannot be written: the disk that standard output goes to is full."""
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def _forget_stdout() -> None:
    """The reader is gone: keep the interpreter from complaining when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if any(word in ("-v", "--verbose") for word in sys.argv[1:]):
        sys.__excepthook__(kind, error, traceback)
        return
    text = f"{kind.__name__}: {error}".rstrip(": ").splitlines()[0]
    print(f"swarm: error: this is a bug ({text}); with -v it shows where", file=sys.stderr)
