"""What the page says in plain words: ways to a peer, reasons, causes, and how this node stands.

Statistics count slugs; people read sentences.  A slug that has no words here is shown as it is, with its hyphens taken
out, so that a reason which is new is never hidden.  Sentences about gateways are `swarm.gateway.report`'s.
Makes no HTML: every text here leaves as JSON, and is put into the page as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from swarm.events import PathName

Document = Mapping[str, Any]

PATH_WORDS: dict[PathName, tuple[str, str]] = {
    "utp": ("Direct, µTP", "a packet straight to it, on the port that everything uses"),
    "tcp": ("Direct, TCP", "an ordinary connection"),
    "utp-punched": ("Punched, µTP", "a third peer introduced us, and both knocked at the same moment"),
    "tcp-punched": ("Punched, TCP", "a third peer introduced us, and both connected at the same moment"),
    "predicted": ("Predicted port", "we guessed the next port of a NAT that counts them up"),
    "birthday": ("Many ports at once", "hundreds of ports tried against a NAT that draws them at random"),
    "relayed": ("Relayed by a peer", "another swarm passes on what we say to each other"),
    "turn": ("Relayed by a TURN server", "a server of yours passes it on"),
}
"""A name, and what happens on that way."""

REASON_WORDS: dict[str, str] = {
    "timed-out": "no answer",
    "refused": "nothing listens on that port",
    "unreachable": "no route leads there",
    "reset": "it broke the connection off",
    "closed": "it hung up",
    "handshake-timed-out": "it answered, then said nothing",
    "handshake-closed": "it hung up during the handshake",
    "forbidden": "this machine's firewall forbids it",
    "no-local-address": "this machine has no address to leave from",
    "no-such-family": "this machine does not speak that kind of address",
    "bad-address": "that is not an address one can dial",
    "too-many-connections": "too many connections from here were waiting",
    "no-ports": "this machine has no ports left",
    "out-of-resources": "this machine had nothing left to try it with",
    "full": "all our places for peers were taken",
    "too-many-strangers": "too many strangers knocked at once",
    "made-room": "given up for a peer that had more to offer",
    "duplicate": "we are connected to it already",
    "self": "that is ourselves",
    "banned": "banned: it sent bad data",
    "bad-data": "it sent bad data",
    "wrong-torrent": "it shares another torrent",
    "unknown-torrent": "it asked for a torrent that is not here",
    "unknown-info-hash": "it asked for a torrent that is not here",
    "encryption-required": "only encrypted connections are allowed here",
    "no-common-encryption": "no kind of encryption suits both",
    "bad-handshake": "it does not speak BitTorrent",
    "bad-encryption": "its encrypted handshake made no sense",
    "bad-message": "it sent what makes no sense",
    "unexpected-message": "it spoke out of turn",
    "no-introducer": "nobody we know is connected to it",
    "no-answer": "the peer that was to introduce us did not answer",
    "no-such-peer": "the peer that was to introduce us does not know it",
    "not-connected": "the peer that was to introduce us is not connected to it any more",
    "no-support": "it cannot be introduced: its client does not know how",
    "no-self": "the introducer took it for itself",
    "no-error": "the introducer gave no reason",
    "busy": "it was busy with other introductions",
    "hopeless": "both NATs draw ports at random; only a relay would do",
    "crossed": "it was trying the same from its side",
    "elsewhere": "it was met in another way meanwhile",
    "not-measured": "it does not know its own NAT yet",
    "no-path": "no way was left to try",
    "no-relay": "no peer that we know passes connections on to it",
    "relay-lost": "the peer that passed it on has gone",
    "not-direct": "the peer that was to pass it on is itself reached through another",
    "not-reserved": "it keeps no place at that relay",
    "no-handshake": "it was there, and did not begin to speak",
    "turn-off": "no TURN server is named in the settings",
    "turn-lost": "the TURN server does not answer",
    "turn-redirected": "the TURN server sends us on and on",
    "turn-unauthorized": "the TURN server does not accept the user name or password",
    "turn-forbidden": "the TURN server forbids it",
    "turn-mismatch": "the TURN server knows our address otherwise",
    "turn-no-family": "the TURN server has no address of this kind",
    "turn-quota": "this user of the TURN server has as many places as he may",
    "turn-full": "the TURN server has no room left",
    "turn-refused": "the TURN server refuses",
    "swapped-for-utp": "dialled again by µTP",
    "both-complete": "neither has anything the other needs",
    "idle": "nothing was said for minutes",
    "stalled": "nothing came through the relay any more",
    "slow-reader": "it did not take what it had asked for",
    "not-reading": "it did not take what it had asked for",
    "stopped": "the torrent was stopped",
    "private": "the torrent is private",
    "network-lost": "our network went away",
    "network-changed": "our network changed",
    "storage-failed": "our disk refused",
    "aborted": "it was broken off",
    "failed": "it failed",
    "other": "other reasons",
}
"""Why a way led nowhere, or why a connection ended: the rest of a sentence about that way."""

Cause = Literal[
    "hopeless", "disagree", "ours", "turned-away", "nobody-there", "no-way", "punch", "no-introducer", "silent"
]

CAUSE_WORDS: dict[Cause, tuple[str, str]] = {
    "silent": (
        "Silent",
        "No answer at all: it is switched off, or a firewall or NAT before it drops what strangers send.",
    ),
    "no-introducer": (
        "Behind a NAT, and nobody to introduce us",
        "It does not answer strangers, and no peer that we know is connected to it, so that no hole could be punched.",
    ),
    "punch": (
        "The hole punch did not work",
        "A third peer introduced us and both sides knocked, and still one of the NATs let nothing through.",
    ),
    "hopeless": (
        "Between two NATs that cannot be crossed",
        "Both give every connection another, random port. Nothing but a relay, or a port opened on either side, helps.",
    ),
    "nobody-there": (
        "Nobody home",
        "The machine answers, but no client listens there any more.",
    ),
    "turned-away": (
        "Turned us away",
        "It answered and then hung up: it is full, has banned our address, or does not share this torrent any more.",
    ),
    "disagree": (
        "No common language",
        "It answered, but another torrent, another kind of encryption, or no BitTorrent at all.",
    ),
    "no-way": (
        "No way there from here",
        "This machine's network has no route to it, or forbids it: an IPv6 address without IPv6, say.",
    ),
    "ours": (
        "Left out by us",
        "Banned for bad data, or there was no room for it here.",
    ),
}
"""A heading, and what it means; the order in which the page lists them is that of how many there are."""

_CAUSES: dict[str, Cause] = {
    "hopeless": "hopeless",
    "wrong-torrent": "disagree",
    "unknown-torrent": "disagree",
    "encryption-required": "disagree",
    "no-common-encryption": "disagree",
    "bad-handshake": "disagree",
    "bad-encryption": "disagree",
    "bad-message": "disagree",
    "banned": "ours",
    "bad-data": "ours",
    "full": "ours",
    "made-room": "ours",
    "too-many-connections": "ours",
    "no-ports": "ours",
    "closed": "turned-away",
    "reset": "turned-away",
    "handshake-timed-out": "turned-away",
    "handshake-closed": "turned-away",
    "refused": "nobody-there",
    "unreachable": "no-way",
    "forbidden": "no-way",
    "no-such-family": "no-way",
    "no-local-address": "no-way",
    "bad-address": "no-way",
}
"""What each reason shows.  What is not here shows nothing of the peer itself: silence, and how punching went."""

_MOST_TELLING: tuple[Cause, ...] = ("disagree", "ours", "turned-away", "hopeless", "nobody-there", "no-way")
"""An answer says more than silence, and its own answer more than the network's."""

SAME_PEER = frozenset({"duplicate", "self", "both-complete", "elsewhere", "crossed"})
"""Reasons that do not mean that anybody was missed."""

PUNCHED = frozenset({"utp-punched", "tcp-punched", "predicted", "birthday"})
RELAYED = frozenset({"relayed", "turn"})
NOT_INTRODUCED = frozenset({"no-introducer", "no-answer", "no-such-peer", "not-connected", "no-support"})


def cause_of(failures: Mapping[str, str]) -> Cause | None:
    """What most of all kept us from a peer, by the reason of each way to it; None if it was not missed."""
    reasons = set(failures.values())
    if not reasons or not reasons.isdisjoint(SAME_PEER):
        return None
    # What a relay or a TURN server answers says nothing of the peer.
    own = {reason for path, reason in failures.items() if path not in RELAYED}
    shown = {_CAUSES[reason] for reason in own if reason in _CAUSES}
    for cause in _MOST_TELLING:
        if cause in shown:
            return cause
    punches = {reason for path, reason in failures.items() if path in PUNCHED}
    if not punches:
        return "silent"
    return "no-introducer" if punches <= NOT_INTRODUCED else "punch"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the node stands, in a headline and some sentences.  ``tone`` is what colours may underline, never replace."""

    title: str
    tone: Literal["good", "partly", "bad", "unknown"]
    sentences: tuple[str, ...]


def verdict(document: Document) -> Verdict:
    """Whether strangers reach us, and what that rests on; says "not known" where nobody has tested it."""
    if not document["node"]["listen"]:
        return Verdict(
            "Offline",
            "bad",
            ("The address or interface that this node is bound to is not there: nothing is sent until it is.",),
        )
    reached = _ways(document["reachability"], True)
    closed = _ways(document["reachability"], False)
    leases = [lease for lease in document["gateway"] if lease["external"] is not None]
    sentences = (*_of_the_nat(document), *_of_the_leases(document["gateway"]))
    if reached and not closed:
        return Verdict(f"Peers reach you by {listed(reached)}", "good", sentences)
    if reached:
        return Verdict(f"Peers reach you, but not by {listed(closed)}", "partly", sentences)
    if closed:
        return Verdict("Peers cannot reach you on their own", "bad", (*_if_closed(document), *sentences))
    title = "Your port is open; no peer has tested it yet" if leases else "Not known yet whether peers reach you"
    told = "Other peers have to test it. That takes a few connections to clients that know how."
    return Verdict(title, "unknown", (told, *sentences))


def _ways(reachability: Document, wanted: bool) -> list[str]:
    """``µTP and TCP`` where only one family was tested, else each with its families."""
    names = {"utp": "µTP", "tcp": "TCP"}
    families = {name[-1] for name, flag in reachability.items() if flag is not None}
    by_transport = {
        shown: [f"IPv{family}" for family in "46" if reachability[f"{transport}{family}"] is wanted]
        for transport, shown in names.items()
    }
    if len(families) < 2:
        return [shown for shown, found in by_transport.items() if found]
    return [f"{shown} over {listed(found)}" for shown, found in by_transport.items() if found]


def _if_closed(document: Document) -> Iterable[str]:
    mapping = (document["nat"]["v4"] or {}).get("mapping")
    if mapping in ("endpoint-independent", "none"):
        yield "You reach them, and where neither reaches the other, a third peer introduces you and a hole is punched."


def _of_the_nat(document: Document) -> Iterable[str]:
    for family, name in (("v4", "IPv4"), ("v6", "IPv6")):
        report = document["nat"][family]
        if report is None:
            continue
        if (sentence := _MAPPING_SENTENCES.get(report["mapping"])) is not None:
            yield f"{name}: {sentence}"
        if report["double_nat"]:
            yield f"{name}: there is another NAT beyond your router, so that what the router opens is not enough."


_MAPPING_SENTENCES = {
    "none": "there is no NAT before you; the address is your own.",
    "endpoint-independent": "your NAT keeps one outside port for everybody, so that hole punching works.",
    "address-dependent": "your NAT gives each peer another outside port, which makes punching a matter of guessing.",
    "address-and-port-dependent": "your NAT gives each peer another outside port, which makes punching a matter of "
    "guessing.",
}


def _of_the_leases(leases: Sequence[Document]) -> Iterable[str]:
    opened = sorted({lease["transport"].upper() for lease in leases if lease["external"] is not None})
    missing = sorted({lease["transport"].upper() for lease in leases} - set(opened))
    if opened:
        yield f"The router forwards {listed(opened)} to you{', and not ' + listed(missing) if missing else ''}."
    elif missing:
        yield "No router has opened a port for you."


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
