"""The dialler's part of sw_reach on real streams: dial once, present the nonce, hang up.

The handshake is the one with which this node opens to a stranger (`Encryption.offers`); a peer with another policy
hangs up, which counts as "connected" here, and as nothing with the asker, whom no nonce reached.
Does not decide whom to dial: `swarm.ext.reach_desk` does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from swarm.connect.dial import Link
from swarm.connect.encrypted import Encryption
from swarm.connect.shake import shake_as_initiator
from swarm.errors import RemoteError
from swarm.ext.reach_desk import DIAL_SECONDS
from swarm.ext.reach_message import Outcome, dial_back_peer_id
from swarm.wire.handshake import Handshake


async def dial_back(
    dial: Callable[[], Awaitable[Link]], info_hash: bytes, nonce: bytes, encryption: Encryption
) -> Outcome:
    """What became of it, within DIAL_SECONDS: "connected", "timed-out", "refused" or "failed".

    ``dial`` is `dial_tcp` or `dial_utp` of the endpoint, from our listening port.  The stream is closed in every case,
    after the answer to the handshake if one comes.
    """
    link: Link | None = None
    try:
        with trio.fail_after(DIAL_SECONDS):
            link = await dial()
            ours = Handshake(info_hash, dial_back_peer_id(nonce))
            await shake_as_initiator(link, ours, encryption, encryption.offers(obfuscated_before=False)[0])
    except trio.TooSlowError:
        return "connected" if link is not None else "timed-out"
    except RemoteError as error:
        return "connected" if link is not None else _OUTCOMES.get(error.reason, "failed")
    finally:
        if link is not None:
            link.stream.abort()
    return "connected"


_OUTCOMES: dict[str, Outcome] = {"timed-out": "timed-out", "refused": "refused"}
"""By the reason of a dial.  Whatever else stops one is more likely to be our own fault than the asker's."""
