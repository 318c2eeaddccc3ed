"""The async face of `swarm.net.mapping_tests`: awaits what the core finds out.  Sends nothing itself."""

from __future__ import annotations

from collections.abc import Callable

import trio

from swarm.endpoint import Endpoint
from swarm.net.answers import Answers
from swarm.net.mapping_tests import MappingTests


class MappingTestService:
    """``kick`` tells the owner of the socket that the core has something to send; the owner hands the core's results
    to `deliver` (see `Answers`)."""

    def __init__(self, core: MappingTests, kick: Callable[[], None]) -> None:
        self._core = core
        self._answers: Answers[bytes, bool] = Answers(kick, core.cancel)
        self.deliver = self._answers.deliver

    async def hairpin(self, outside: Endpoint) -> bool:
        """Whether what we send to ``outside``, where others see us, comes back to us; False after two seconds."""
        return await self._answers.wait(self._core.hairpin(outside, trio.current_time()))

    def grant(self, nonce: bytes, host: str) -> bool:
        """As `MappingTests.grant`; nothing is sent before somebody asks."""
        return self._core.grant(nonce, host, trio.current_time())
