"""Events in words, for ``-v``.  Whatever strangers chose (client names, reasons, URLs) is escaped."""

from __future__ import annotations

from swarm.cli.units import counted, format_bytes, format_duration, printable
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
        case TrackerAnswered():
            warning = f"; it warns: {event.warning}" if event.warning else ""
            return f"tracker {event.url}: {counted(event.peers, 'peer')}{warning}"
        case TrackerFailed():
            return f"tracker {event.url}: {event.reason}; again in {format_duration(event.retry_in)}"
        case _:
            return str(event)
