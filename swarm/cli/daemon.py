"""``swarm daemon``: many torrents, unattended, spoken to by Transmission's RPC and a web page.

INT and TERM end it, orderly and with 0, a second one at once; HUP reads the configuration again; USR1 logs how peers
are reached.  Logs go to standard error.

Who wins: the command line over the environment over the configuration file over the defaults.  What is changed at run
time (`transmission-remote -u 500`) covers all of these, over restarts, too, until what they say of it *changes*: that
is newer then and wins, be it seen at HUP or at the next start.  A rate that is not said any more is no limit.
"""

from __future__ import annotations

import os
import signal
import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from swarm.cli.document import as_text
from swarm.cli.log import Log
from swarm.cli.remote import addresses_of, password_of
from swarm.cli.settle import Settings, config_path, settle, state_directory
from swarm.daemon.notify import Notifier
from swarm.daemon.options import Options
from swarm.daemon.run import Plan, run_daemon
from swarm.daemon.session import Session
from swarm.errors import UsageError

OPTIONS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "output": lambda directory: {"download_dir": directory.absolute()},
    "download-rate": lambda rate: {"download_rate": rate, "download_limited": bool(rate)},
    "upload-rate": lambda rate: {"upload_rate": rate, "upload_limited": bool(rate)},
}
"""What a setting says of the session's `Options`: these a reload changes; the others hold from the next start on."""


def run(options: Namespace) -> int:
    settings = settle(vars(options), file=options.config)
    plan = plan_of(settings)
    log = Log(sys.stderr, as_json=options.log_json, verbose=options.verbose)
    notifier = Notifier()
    for number in (signal.SIGHUP, signal.SIGUSR1):  # while nobody obeys yet, or any more
        signal.signal(number, signal.SIG_IGN)
    trio.run(run_daemon, plan, notifier, partial(_accompany, options, settings, notifier, log), log.of)
    return 0


def plan_of(settings: Settings) -> Plan:
    """UsageError for an address that others could reach without a password."""
    addresses, password = addresses_of(settings), password_of(settings)
    for address in addresses:
        if not address.is_private and password is None:
            raise UsageError(
                f"others could reach {address}, and there is no password: give --rpc-user and --rpc-password-file, "
                f"or set rpc-user and rpc-password-file in {config_path()}"
            )
    return Plan(
        config=settings.config(state_directory()),
        state=state_directory() / "daemon",
        options=Options(**_options(settings, OPTIONS)),
        given=_given(settings),
        addresses=addresses,
        user=settings.values["rpc-user"],
        password=password,
        host_names=settings.values["rpc-host-names"],
        watch=settings.values["watch"],
    )


def _options(settings: Settings, names: Iterable[str]) -> dict[str, Any]:
    """The options that these settings stand for, by name."""
    return {name: value for setting in names for name, value in OPTIONS[setting](settings.values[setting]).items()}


def _given(settings: Settings) -> Collection[str]:
    """Those of them that were said: an output that nobody named is the directory that the daemon was started in."""
    return _options(settings, (name for name in OPTIONS if settings.origins[name])).keys()


@asynccontextmanager
async def _accompany(
    options: Namespace, settings: Settings, notifier: Notifier, log: Log, session: Session
) -> AsyncIterator[None]:
    for number in (signal.SIGINT, signal.SIGTERM):  # once `_obey` has ended: during the last save
        signal.signal(number, _end_at_once)
    log.say("info", f"running with {len(session.entries)} torrents on port {session.node.port or 'none yet'}")
    if (path := settings.values["rpc-password-file"]) is not None and _others_may_read(path):
        log.say("warning", f"other users of this machine may read {path}, which holds the password: chmod 600 it")
    async with trio.open_nursery() as nursery:
        await nursery.start(_obey, options, settings, notifier, log, session)
        yield
        log.say("info", "stopping")
        nursery.cancel_scope.cancel()


def _others_may_read(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & 0o077)
    except OSError:  # gone since it was read
        return False


async def _obey(
    options: Namespace,
    settings: Settings,
    notifier: Notifier,
    log: Log,
    session: Session,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    """Do what signals ask for, until cancelled."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                notifier.reloading()
                settings = _reload(options, settings, log, session)
                notifier.ready()
            elif number == signal.SIGUSR1:
                log.statistics(as_text(session.node.document()))
            elif session.close_requested.is_set():
                _end_at_once(number)
            else:
                session.request_close()


def _end_at_once(number: int, frame: object = None) -> None:
    """Without a goodbye.  Every file is replaced in one step, so this loses no more than a crash does."""
    os._exit(128 + number)


def _reload(options: Namespace, before: Settings, log: Log, session: Session) -> Settings:
    try:
        settings = settle(vars(options), file=options.config)
    except UsageError as error:
        log.say("warning", f"nothing is changed: {error}")
        return before
    changed = {name for name in settings.values if _differs(name, before, settings)}
    session.reload(_options(settings, changed & OPTIONS.keys()), given=_given(settings))
    for name in sorted(changed - OPTIONS.keys()):
        log.say("warning", f"{name} is changed, which takes effect when the daemon is started again")
    log.say("info", f"the configuration was read again; changed: {', '.join(sorted(changed)) or 'nothing'}")
    return settings


def _differs(name: str, before: Settings, after: Settings) -> bool:
    """Whether something else is said of a setting; of one that may change at run time also, whether anything is."""
    if name in OPTIONS and bool(before.origins[name]) != bool(after.origins[name]):
        return True
    return bool(before.values[name] != after.values[name])
