"""The async face of `swarm.net.udp_tracker`: awaits what the core answers.  No BEP of its own; sends nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from swarm.endpoint import Endpoint
from swarm.net.answers import Answers
from swarm.net.udp_tracker import Outcome, UdpTracker
from swarm.wire.tracker import AnnounceFailure, AnnounceReply, AnnounceRequest, ScrapeEntry


class UdpTrackerService:
    """Announces over the socket that ``core`` hangs off.

    ``kick`` tells the owner of the socket that the core has something to send; the owner hands the core's results to
    `deliver` (see `Answers`).
    """

    def __init__(self, core: UdpTracker, kick: Callable[[], None]) -> None:
        self._core = core
        self._answers: Answers[int, Outcome] = Answers(kick, core.cancel)
        self.deliver = self._answers.deliver

    async def announce(
        self, request: AnnounceRequest, remote: Endpoint, url_data: bytes = b""
    ) -> AnnounceReply | AnnounceFailure:
        """The tracker's answer.  Waits, and retransmits, for ever: the caller's cancel scope ends it.

        Raises RemoteProtocolError when the answer is not one.  After cancellation nothing more is sent.
        """
        outcome = await self._answers.wait(self._core.announce(request, remote, url_data, trio.current_time()))
        assert isinstance(outcome, AnnounceReply | AnnounceFailure)
        return outcome

    async def scrape(
        self, info_hashes: Sequence[bytes], remote: Endpoint
    ) -> dict[bytes, ScrapeEntry] | AnnounceFailure:
        """The counts of up to 74 torrents; otherwise as `announce`."""
        outcome = await self._answers.wait(self._core.scrape(info_hashes, remote, trio.current_time()))
        assert isinstance(outcome, dict | AnnounceFailure)
        return outcome
