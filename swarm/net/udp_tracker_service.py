"""The async face of `swarm.net.udp_tracker`: awaits what the core answers.  No BEP of its own; sends nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import trio

from swarm.endpoint import Endpoint
from swarm.errors import RemoteProtocolError
from swarm.net.udp_tracker import Outcome, UdpTracker, UdpTrackerResult
from swarm.wire.tracker import AnnounceFailure, AnnounceReply, AnnounceRequest, ScrapeEntry


class UdpTrackerService:
    """Announces over the socket that ``core`` hangs off.

    ``kick`` tells the owner of the socket that the core has something to send; the owner hands the core's results to
    `deliver`.  Nothing is queued: a result that nobody waits for any more is dropped.
    """

    def __init__(self, core: UdpTracker, kick: Callable[[], None]) -> None:
        self._core = core
        self._kick = kick
        self._waiting: dict[int, _Wait] = {}

    async def announce(
        self, request: AnnounceRequest, remote: Endpoint, url_data: bytes = b""
    ) -> AnnounceReply | AnnounceFailure:
        """The tracker's answer.  Waits, and retransmits, for ever: the caller's cancel scope ends it.

        Raises RemoteProtocolError when the answer is not one.  After cancellation nothing more is sent.
        """
        outcome = await self._wait(self._core.announce(request, remote, url_data, trio.current_time()))
        assert isinstance(outcome, AnnounceReply | AnnounceFailure)
        return outcome

    async def scrape(
        self, info_hashes: Sequence[bytes], remote: Endpoint
    ) -> dict[bytes, ScrapeEntry] | AnnounceFailure:
        """The counts of up to 74 torrents; otherwise as `announce`."""
        outcome = await self._wait(self._core.scrape(info_hashes, remote, trio.current_time()))
        assert isinstance(outcome, dict | AnnounceFailure)
        return outcome

    def deliver(self, results: Iterable[UdpTrackerResult]) -> None:
        """Wake those who wait for ``results``."""
        for result in results:
            wait = self._waiting.get(result.handle)
            if wait is not None:
                wait.outcome = result.outcome
                wait.done.set()

    async def _wait(self, handle: int) -> Outcome:
        wait = self._waiting[handle] = _Wait()
        try:
            self._kick()
            await wait.done.wait()
        finally:
            del self._waiting[handle]
            self._core.cancel(handle)
        assert wait.outcome is not None
        if isinstance(wait.outcome, RemoteProtocolError):
            raise wait.outcome
        return wait.outcome


class _Wait:
    def __init__(self) -> None:
        self.done = trio.Event()
        self.outcome: Outcome | None = None
