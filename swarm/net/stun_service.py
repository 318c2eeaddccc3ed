"""The async face of `swarm.net.stun`: awaits what the core answers.  No RFC of its own; sends nothing itself."""

from __future__ import annotations

from collections.abc import Callable

import trio

from swarm.endpoint import Endpoint
from swarm.errors import RemoteError
from swarm.net.answers import Answers
from swarm.net.stun import PATIENT, Patience, StunAnswer, StunClient


class StunService:
    """Asks STUN servers over the socket that ``core`` hangs off.

    ``kick`` tells the owner of the socket that the core has something to send; the owner hands the core's results to
    `deliver` (see `Answers`).
    """

    def __init__(self, core: StunClient, kick: Callable[[], None]) -> None:
        self._core = core
        self._answers: Answers[bytes, StunAnswer | RemoteError] = Answers(kick, core.cancel)
        self.deliver = self._answers.deliver

    async def bind(
        self, server: Endpoint, *, change_ip: bool = False, change_port: bool = False, patience: Patience = PATIENT
    ) -> StunAnswer:
        """Where ``server`` sees us; as `StunClient.bind`.

        Raises RemoteError: "timed-out" after ``patience.total`` seconds, "stun-refused", "bad-stun".  After
        cancellation nothing more is sent.
        """
        now = trio.current_time()
        handle = self._core.bind(server, now, change_ip=change_ip, change_port=change_port, patience=patience)
        outcome = await self._answers.wait(handle)
        assert isinstance(outcome, StunAnswer)
        return outcome
