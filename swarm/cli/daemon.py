"""``swarm daemon``: many torrents, unattended, spoken to by Transmission's RPC and a web page.

INT and TERM end it, orderly and with 0, a second one at once; HUP reads the configuration again; USR1 logs how peers
are reached.  Logs go to standard error.
"""

from __future__ import annotations

import os
import signal
import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
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

APPLIED = {"output", "download-rate", "upload-rate"}
"""Settings that a reload changes; the others hold from the next start on."""


def run(options: Namespace) -> int:
    settings = settle(vars(options), file=options.config)
    plan = plan_of(settings)
    log = Log(sys.stderr, as_json=options.log_json, verbose=options.verbose)
    notifier = Notifier()
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
    values = _options(settings)
    return Plan(
        config=settings.config(state_directory()),
        state=state_directory() / "daemon",
        options=Options(**values),
        given=[name for name in values if name not in ("peer_limit", "peer_limit_per_torrent")]
        if settings.origins["output"]
        else [name for name in values if name != "download_dir"],
        addresses=addresses,
        user=settings.values["rpc-user"],
        password=password,
        watch=settings.values["watch"],
    )


def _options(settings: Settings) -> dict[str, Any]:
    """What the settings say of the `Options`; rates only where they are said."""
    values: dict[str, Any] = {"download_dir": settings.output.absolute()}
    for direction in ("download", "upload"):
        if settings.origins[f"{direction}-rate"]:
            rate = settings.values[f"{direction}-rate"]
            values |= {f"{direction}_rate": rate, f"{direction}_limited": bool(rate)}
    return values


@asynccontextmanager
async def _accompany(
    options: Namespace, settings: Settings, notifier: Notifier, log: Log, session: Session
) -> AsyncIterator[None]:
    log.say("info", f"running with {len(session.entries)} torrents on port {session.node.port or 'none yet'}")
    async with trio.open_nursery() as nursery:
        await nursery.start(_obey, options, settings, notifier, log, session)
        yield
        log.say("info", "stopping")
        nursery.cancel_scope.cancel()


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
                os._exit(128 + number)
            else:
                session.request_close()


def _reload(options: Namespace, before: Settings, log: Log, session: Session) -> Settings:
    try:
        settings = settle(vars(options), file=options.config)
    except UsageError as error:
        log.say("warning", f"nothing is changed: {error}")
        return before
    changed = {name for name, value in settings.values.items() if value != before.values[name]}
    session.reload({name: value for name, value in _options(settings).items() if name.startswith(_prefixes(changed))})
    for name in sorted(changed - APPLIED):
        log.say("warning", f"{name} is changed, which takes effect when the daemon is started again")
    log.say("info", f"the configuration was read again; changed: {', '.join(sorted(changed)) or 'nothing'}")
    return settings


def _prefixes(changed: set[str]) -> tuple[str, ...]:
    words = {"output": "download_dir", "download-rate": "download_rate", "upload-rate": "upload_"}
    prefixes = [words[name] for name in changed & APPLIED]
    return (*prefixes, "download_limited") if "download-rate" in changed else tuple(prefixes)
