"""Liars are found, honest peers are not accused for good, and the record stays small."""

from __future__ import annotations

import random
from collections.abc import Iterator

from swarm.bitfield import Bitfield
from swarm.torrent import blame as blame_module
from swarm.torrent.blame import Blame
from swarm.torrent.openpiece import BLOCK, Block, PieceMemory
from swarm.torrent.picker import Picker, Sharing

GOOD = bytearray(random.Random(1).randbytes(4 * BLOCK))
BLOCKS = [Block(5, number * BLOCK, BLOCK) for number in range(4)]


def bad_at(*numbers: int) -> bytearray:
    data = bytearray(GOOD)
    for number in numbers:
        data[number * BLOCK] ^= 0xFF
    return data


def test_the_only_sender_of_a_bad_piece_is_convicted_at_once() -> None:
    assert Blame().failed(5, {"liar": BLOCKS}, bad_at(0)) == {"liar"}


def test_of_several_senders_the_liar_is_known_when_the_piece_verifies() -> None:
    blame = Blame()
    assert blame.failed(5, {"liar": BLOCKS[:1], "honest": BLOCKS[1:]}, bad_at(0)) == frozenset()
    assert blame.on_parole("liar")
    assert blame.on_parole("honest")
    assert blame.verified(5, {"third": BLOCKS}, GOOD) == {"liar"}
    assert not blame.on_parole("liar")
    assert blame.recorded_blocks == 0


def test_a_liar_that_later_sends_the_truth_is_still_convicted() -> None:
    blame = Blame()
    blame.failed(5, {"liar": BLOCKS[:2], "honest": BLOCKS[2:]}, bad_at(1))
    assert blame.verified(5, {"liar": BLOCKS[:2], "honest": BLOCKS[2:]}, GOOD) == {"liar"}


def test_two_liars_are_found_over_repeated_failures() -> None:
    blame = Blame()
    blame.failed(5, {"liar": BLOCKS[:2], "honest": BLOCKS[2:]}, bad_at(1))
    blame.failed(5, {"other liar": BLOCKS[:2], "honest": BLOCKS[2:]}, bad_at(0))
    assert blame.verified(5, {"honest": BLOCKS}, GOOD) == {"liar", "other liar"}


def test_a_suspect_is_cleared_by_a_good_piece_of_its_own() -> None:
    blame = Blame()
    blame.failed(5, {"liar": BLOCKS[:2], "honest": BLOCKS[2:]}, bad_at(1))
    assert blame.verified(6, {"honest": BLOCKS}, GOOD) == frozenset()
    assert not blame.on_parole("honest")
    assert blame.suspects == {"liar"}


def test_what_verified_without_peers_convicts_the_liar_only() -> None:
    """A web seed or a recheck of the disk gave the right data."""
    blame = Blame()
    blame.failed(5, {"liar": BLOCKS[:2], "honest": BLOCKS[2:]}, bad_at(1))
    assert blame.verified(5, {}, GOOD) == {"liar"}


def test_a_suspect_that_fails_alone_is_convicted() -> None:
    blame = Blame()
    blame.failed(5, {"liar": BLOCKS[:2], "honest": BLOCKS[2:]}, bad_at(1))
    assert blame.failed(6, {"liar": BLOCKS}, bad_at(2)) == {"liar"}
    assert not blame.on_parole("liar")


def test_a_good_piece_made_together_clears_nobody() -> None:
    blame = Blame()
    blame.failed(5, {"a": BLOCKS[:2], "b": BLOCKS[2:]}, bad_at(1))
    blame.verified(6, {"a": BLOCKS[:2], "b": BLOCKS[2:]}, GOOD)
    assert blame.suspects == {"a", "b"}


def test_the_oldest_records_are_forgotten_at_the_bound() -> None:
    blame = Blame(max_blocks=10)
    for index in range(9):
        blocks = [block._replace(index=index) for block in BLOCKS]
        blame.failed(index, {"a": blocks[:2], "b": blocks[2:]}, bad_at(1))
        assert blame.recorded_blocks <= 10
    assert blame.verified(0, {"c": BLOCKS}, GOOD) == frozenset()
    assert blame.verified(8, {"c": BLOCKS}, GOOD) == {"a"}


def test_suspects_are_bounded_and_the_oldest_forgiven() -> None:
    blame = Blame()
    for number in range(2 * blame_module.MAX_SUSPECTS):
        blame.failed(5, {number: BLOCKS[:1], "always": BLOCKS[1:2]}, bad_at(1))
    assert len(blame.suspects) == blame_module.MAX_SUSPECTS


def test_one_liar_among_honest_peers_is_convicted_and_nobody_else() -> None:
    """The whole loop with a picker: sharing peers, random lies, parole, until everything is verified."""
    for seed in range(100):
        convicted = download_among_liars(random.Random(seed))
        assert convicted == {"liar"}, f"seed {seed}"


def download_among_liars(rng: random.Random) -> set[object]:
    pieces = 20
    picker = Picker(pieces, len(GOOD), pieces * len(GOOD), Bitfield(pieces), rng, PieceMemory(1 << 30))
    blame = Blame()
    everything = Bitfield.full(pieces)
    peers = ["liar", "a", "b", "c"]
    for _ in peers:
        picker.peer_joined(everything)
    convicted: set[object] = set()
    while picker.wanted_left:
        peer = rng.choice(peers)
        sharing = Sharing.ALONE if blame.on_parole(peer) else Sharing.JOIN
        for block in picker.pick(peer, everything, rng.randint(1, 3), sharing=sharing):
            data = bytes(GOOD[block.begin : block.begin + BLOCK])
            if peer == "liar" and rng.random() < 0.7:
                data = rng.randbytes(BLOCK)
            if picker.received(peer, block.index, block.begin, data).complete:
                convicted |= set(judge(picker, blame, block.index))
        for liar in convicted & set(peers):
            peers.remove(str(liar))
            picker.released_all(liar)
    return convicted


def judge(picker: Picker, blame: Blame, index: int) -> Iterator[object]:
    senders = picker.contributors(index)
    data = picker.buffer(index)
    if data == GOOD:
        yield from blame.verified(index, senders, data)
        picker.piece_verified(index)
    else:
        yield from blame.failed(index, senders, data)
        picker.piece_failed(index)
