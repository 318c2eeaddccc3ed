"""The async face of `swarm.net.stun`: awaits what the core answers.  No RFC of its own; sends nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.net.stun import PATIENT, Patience, StunAnswer, StunClient, StunResult


class StunService:
    """Asks STUN servers over the socket that ``core`` hangs off.

    ``kick`` tells the owner of the socket that the core has something to send; the owner hands the core's results to
    `deliver`.  Nothing is queued: a result that nobody waits for any more is dropped.
    """

    def __init__(self, core: StunClient, kick: Callable[[], None]) -> None:
        self._core = core
        self._kick = kick
        self._waiting: dict[bytes, _Wait] = {}

    async def bind(
        self, server: Endpoint, *, change_ip: bool = False, change_port: bool = False, patience: Patience = PATIENT
    ) -> StunAnswer:
        """Where ``server`` sees us; as `StunClient.bind`.

        Raises RemoteError: "timed-out" after ``patience.total`` seconds, "stun-refused", "bad-stun".  After
        cancellation nothing more is sent.
        """
        now = trio.current_time()
        handle = self._core.bind(server, now, change_ip=change_ip, change_port=change_port, patience=patience)
        wait = self._waiting[handle] = _Wait()
        try:
            self._kick()
            await wait.done.wait()
        finally:
            del self._waiting[handle]
            self._core.cancel(handle)
        assert wait.outcome is not None
        if isinstance(wait.outcome, RemoteError):
            raise wait.outcome
        return wait.outcome

    def deliver(self, results: Iterable[StunResult]) -> None:
        """Wake those who wait for ``results``."""
        for result in results:
            wait = self._waiting.get(result.handle)
            if wait is not None:
                wait.outcome = result.outcome
                wait.done.set()


class _Wait:
    def __init__(self) -> None:
        self.done = trio.Event()
        self.outcome: StunAnswer | RemoteError | None = None
