"""Events in words, for ``-v``.  Whatever strangers and gateways chose (client names, reasons, URLs) is escaped."""

from __future__ import annotations

from swarm.cli.units import counted, format_bytes, format_duration, printable
from swarm.connect.report import Behaviour
from swarm.events import (
    ConnectionClosed,
    ConnectionRefused,
    DialFailed,
    Event,
    NetworkLost,
    NetworkRestored,
    PeerBanned,
    PeerConnected,
    PeerDiscovered,
    PieceFailed,
    PieceVerified,
    PortBound,
    PortMapped,
    PortMappingFailed,
    PortMappingLost,
    PunchAsked,
    PunchConnected,
    PunchFailed,
    RendezvousRefused,
    RendezvousRelayed,
    StorageFailed,
    TorrentAdded,
    TorrentChecked,
    TorrentCompleted,
    TrackerAnswered,
    TrackerFailed,
    Warned,
)


def describe(event: Event) -> str | None:
    """A line without its end; None for what the progress shows better."""
    text = _describe(event)
    return None if text is None else printable(text)


def _describe(event: Event) -> str | None:
    match event:
        case PieceVerified() | TorrentAdded():
            return None
        case PortBound():
            moved = f" ({event.wanted} was taken)" if event.wanted is not None else ""
            return f"listening on {event.transport} {event.local}{moved}"
        case NetworkLost():
            return f"{event.bind} is gone: all traffic has stopped"
        case NetworkRestored():
            return f"{event.bind} is back"
        case TorrentChecked():
            return f"{event.verified:,} of {counted(event.pieces, 'piece')} found on disk"
        case TorrentCompleted():
            return "complete"
        case PieceFailed():
            senders = ", ".join(str(endpoint) for endpoint in event.contributors) or "nobody known"
            return f"piece {event.index} is bad; sent by {senders}"
        case PeerBanned():
            return f"banned {event.endpoint.host}: {event.reason}"
        case PeerDiscovered():
            return f"peer {event.endpoint} known from {event.source}"
        case Warned():
            return event.message
        case StorageFailed():
            return f"stopped: {event.message}"
        case _:
            return _describe_contact(event)


def _describe_contact(event: Event) -> str | None:
    match event:
        case DialFailed():
            return f"no {event.path} to {event.endpoint}: {event.reason} after {format_duration(event.seconds)}"
        case PeerConnected():
            way = f"over {event.path}" if event.direction == "out" else f"in over {event.path}"
            return f"connected {event.endpoint} {way}: {event.client}"
        case ConnectionRefused():
            return f"refused {event.endpoint} ({event.direction}, {event.path}): {event.reason}"
        case ConnectionClosed():
            down, up = format_bytes(event.bytes_down), format_bytes(event.bytes_up)
            return f"lost {event.endpoint} ({event.reason}): ↓ {down}, ↑ {up} in {format_duration(event.seconds)}"
        case PunchAsked() | PunchConnected() | PunchFailed() | RendezvousRelayed() | RendezvousRefused():
            return _describe_punch(event)
        case PortMapped() | PortMappingFailed() | PortMappingLost():
            return _describe_mapping(event)
        case TrackerAnswered():
            warning = f"; it warns: {event.warning}" if event.warning else ""
            return f"tracker {event.url}: {counted(event.peers, 'peer')}{warning}"
        case TrackerFailed():
            return f"tracker {event.url}: {event.reason}; again in {format_duration(event.retry_in)}"
        case _:
            return str(event)


def _describe_punch(
    event: PunchAsked | PunchConnected | PunchFailed | RendezvousRelayed | RendezvousRefused,
) -> str:
    match event:
        case PunchAsked(role="initiator"):
            return f"asked {event.introducer} to introduce us to {event.endpoint}"
        case PunchAsked():
            return f"{event.introducer} wants us to meet {event.endpoint}"
        case PunchConnected():
            return f"{event.path} to {event.endpoint} in {format_duration(event.seconds)}{_between(event)}"
        case PunchFailed():
            after = format_duration(event.seconds)
            return f"no punch to {event.endpoint}: {event.reason} after {after}{_between(event)}"
        case RendezvousRelayed():
            return f"introduced {event.initiator} to {event.target}"
        case RendezvousRefused():
            return f"did not introduce {event.initiator}: {event.error}"


def _between(event: PunchConnected | PunchFailed) -> str:
    """How the two NATs map, once either is known."""
    if event.ours == event.theirs == "unknown":
        return ""
    return f" (our NAT maps {_mapping(event.ours)}, theirs {_mapping(event.theirs)})"


def _mapping(behaviour: Behaviour) -> str:
    return {"none": "nothing", "unknown": "in a way not known"}.get(behaviour, behaviour)


def _describe_mapping(event: PortMapped | PortMappingFailed | PortMappingLost) -> str:
    where = f"{event.transport} {event.internal}"
    match event:
        case PortMapped():
            return f"{where} is open as {event.external}: {event.method} at {event.gateway}"
        case PortMappingFailed():
            detail = f" ({event.detail})" if event.detail else ""
            return f"{where} was not opened by {event.method} at {event.gateway}: {event.reason}{detail}"
        case PortMappingLost():
            return f"{where} is not open any more: {event.method} at {event.gateway}, {event.reason}"
