"""The picker, by behaviour and by random scripts that check its invariants after every step."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.bitfield import Bitfield
from swarm.torrent.availability import Availability, random_member
from swarm.torrent.openpiece import BLOCK, Block, PieceMemory
from swarm.torrent.picker import RANDOM_FIRST, Arrival, Picker, Sharing


def bits(size: int, *indices: int) -> Bitfield:
    bitfield = Bitfield(size)
    for index in indices:
        bitfield.add(index)
    return bitfield


def new_picker(
    pieces: int = 8,
    piece_length: int = 4 * BLOCK,
    total: int | None = None,
    *,
    have: Bitfield | None = None,
    memory: int = 64 << 20,
) -> Picker:
    total = pieces * piece_length if total is None else total
    return Picker(pieces, piece_length, total, have or Bitfield(pieces), random.Random(7), PieceMemory(memory))


def content(block: Block | tuple[int, int, int]) -> bytes:
    index, begin, length = block
    return bytes([(index * 31 + begin // BLOCK * 7 + 1) & 0xFF]) * length


def deliver(picker: Picker, peer: object, blocks: list[Block]) -> list[int]:
    complete = []
    for block in blocks:
        outcome = picker.received(peer, block.index, block.begin, content(block))
        assert outcome.arrival is Arrival.FRESH
        if outcome.complete:
            complete.append(block.index)
    return complete


def begin_with(picker: Picker, *indices: int) -> None:
    """Verify these pieces, so that the random beginning is over."""
    for index in indices:
        theirs = bits(picker.piece_count, index)
        assert deliver(picker, "starter", picker.pick("starter", theirs, 1000)) == [index]
        picker.piece_verified(index)


# -- availability -----------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 70),
    st.lists(st.tuples(st.sampled_from(["join", "leave", "has"]), st.integers(0, 2**70)), max_size=60),
)
def test_availability_counts_like_a_list_of_counters(size: int, script: list[tuple[str, int]]) -> None:
    availability = Availability(size)
    counts = [0] * size
    peers: list[Bitfield] = []
    for action, number in script:
        if action == "join":
            peers.append(bits(size, *(index for index in range(size) if number >> index & 1)))
            availability.joined(peers[-1].copy())
            counts = [count + (index in peers[-1]) for index, count in enumerate(counts)]
        elif action == "leave" and peers:
            gone = peers.pop(number % len(peers))
            availability.left(gone)
            counts = [count - (index in gone) for index, count in enumerate(counts)]
        elif action == "has" and peers and peers[number % len(peers)].add(number % size):
            availability.has(number % size)
            counts[number % size] += 1
    assert [availability.count(index) for index in range(size)] == counts
    candidates = bits(size, *range(0, size, 2))
    rarest = availability.rarest(candidates.as_int())
    fewest = min(counts[::2])
    assert rarest == bits(size, *(index for index in range(0, size, 2) if counts[index] == fewest)).as_int()
    assert availability.copies() == pytest.approx(min(counts) + sum(c > min(counts) for c in counts) / size)
    assert availability.held() == bits(size, *(index for index, count in enumerate(counts) if count)).as_int()


def test_a_peer_that_never_joined_cannot_leave() -> None:
    availability = Availability(9)
    availability.joined(bits(9, 1))
    with pytest.raises(ValueError, match="had not joined"):
        availability.left(bits(9, 2))


def test_a_random_member_is_drawn_evenly() -> None:
    members = [0, 1, 5, 64, 65, 66, 999]
    pieces = sum(1 << member for member in members)
    rng = random.Random(3)
    drawn = Counter(random_member(pieces, rng) for _ in range(7000))
    assert sorted(drawn) == members
    assert all(850 < count < 1150 for count in drawn.values())


# -- choice -----------------------------------------------------------------------------------------------------------


def test_the_first_pieces_are_random_and_the_next_the_rarest() -> None:
    first_choices = set()
    for seed in range(40):
        picker = Picker(50, BLOCK, 50 * BLOCK, Bitfield(50), random.Random(seed), PieceMemory(1 << 30))
        for _ in range(3):
            picker.peer_joined(Bitfield.full(50))
        picker.peer_joined(bits(50, *range(49)))  # piece 49 is the rarest
        first_choices.add(picker.pick("seed", Bitfield.full(50), 1)[0].index)
        for _ in range(RANDOM_FIRST - 1):
            picker.pick("seed", Bitfield.full(50), 1)
        assert 49 in picker._open or picker.pick("seed", Bitfield.full(50), 1)[0].index == 49
    assert len(first_choices) > 15


def test_a_begun_piece_is_finished_before_another_is_begun() -> None:
    picker = new_picker()
    blocks = [picker.pick("a", Bitfield.full(8), 1)[0] for _ in range(8)]
    assert [block.begin for block in blocks] == [0, BLOCK, 2 * BLOCK, 3 * BLOCK] * 2
    assert len({block.index for block in blocks[:4]}) == len({block.index for block in blocks[4:]}) == 1


def test_fast_peers_fill_pieces_of_their_own() -> None:
    picker = new_picker()
    picks = {peer: picker.pick(peer, Bitfield.full(8), 2) for peer in "abc"}
    assert len({block.index for blocks in picks.values() for block in blocks}) == 3


def test_slow_peers_share_a_piece() -> None:
    picker = new_picker()
    picks = [picker.pick(peer, Bitfield.full(8), 1, sharing=Sharing.JOIN)[0] for peer in "abcd"]
    assert len({block.index for block in picks}) == 1
    assert len({block.begin for block in picks}) == 4


def test_a_slow_peer_stays_out_of_a_fast_peers_piece_until_nothing_else_is_left() -> None:
    picker = new_picker(pieces=2)
    fast = picker.pick("fast", Bitfield.full(2), 1)[0].index
    slow = picker.pick("slow", Bitfield.full(2), 4, sharing=Sharing.JOIN)
    assert {block.index for block in slow} == {1 - fast}
    assert picker.pick("slow", Bitfield.full(2), 1, sharing=Sharing.JOIN)[0].index == fast


def test_what_a_peer_left_behind_is_finished_by_the_next() -> None:
    picker = new_picker()
    begun = picker.pick("a", Bitfield.full(8), 2)
    deliver(picker, "a", begun[:1])
    picker.released_all("a")
    assert picker.pick("b", Bitfield.full(8), 3) == [
        Block(begun[0].index, begin, BLOCK) for begin in (BLOCK, 2 * BLOCK, 3 * BLOCK)
    ]


def test_only_pieces_that_the_peer_has_are_asked_of_it() -> None:
    picker = new_picker()
    assert {block.index for block in picker.pick("a", bits(8, 3, 5), 100)} == {3, 5}
    assert picker.pick("b", bits(8), 100) == []


def test_the_last_piece_and_odd_piece_lengths_end_in_short_blocks() -> None:
    picker = new_picker(pieces=2, piece_length=BLOCK + 1000, total=BLOCK + 1000 + 500)
    assert sorted(picker.pick("a", Bitfield.full(2), 9)) == [(0, 0, BLOCK), (0, BLOCK, 1000), (1, 0, 500)]


def test_unwanted_pieces_are_not_asked_for_and_high_priority_goes_first() -> None:
    picker = new_picker(pieces=100)
    cancels = picker.set_wanted(bits(100, *range(50)), high=bits(100, 33, 44), low=bits(100, *range(30)))
    assert cancels == []
    picked = [picker.pick("a", Bitfield.full(100), 4)[0].index for _ in range(50)]
    assert set(picked[:2]) == {33, 44}
    assert set(picked[2:20]) == set(range(30, 50)) - {33, 44}
    assert set(picked[20:]) == set(range(30))
    assert picker.wanted_left == 50


def test_deselecting_an_open_piece_drops_it_and_names_the_requests_to_cancel() -> None:
    picker = new_picker(memory=8 * 4 * BLOCK)
    blocks = picker.pick("a", bits(8, 2), 3)
    deliver(picker, "a", blocks[:1])
    assert picker.set_wanted(bits(8, 7)) == [("a", blocks[1]), ("a", blocks[2])]
    assert picker.memory.used == 0
    assert picker.received("a", 2, BLOCK, content(blocks[1])).arrival is Arrival.UNASKED
    assert not picker.is_interesting(bits(8, 2))
    picker.set_wanted(Bitfield.full(8))
    assert picker.pick("a", bits(8, 2), 9) == [Block(2, block * BLOCK, BLOCK) for block in range(4)]


def test_a_complete_piece_that_is_deselected_is_still_kept_when_verified() -> None:
    picker = new_picker()
    deliver(picker, "a", picker.pick("a", bits(8, 2), 4))
    assert picker.set_wanted(bits(8, 7)) == []
    picker.piece_verified(2)
    assert 2 in picker.have
    assert picker.wanted_left == 1


def test_choked_we_ask_for_allowed_fast_pieces_only() -> None:
    picker = new_picker()
    assert {b.index for b in picker.pick("a", bits(8, 1, 2, 3), 99, allowed_fast=[3, 6, 77, -1])} == {3}
    assert picker.pick("a", Bitfield.full(8), 99, allowed_fast=[]) == []


def test_a_suggested_piece_is_opened_before_a_rarer_one() -> None:
    picker = new_picker(pieces=20)
    begin_with(picker, 0, 1, 2, 3)
    for _ in range(2):
        picker.peer_joined(bits(20, 9))
    assert picker.pick("a", Bitfield.full(20), 1, suggested=[0, 99, 9])[0].index == 9


# -- end game ---------------------------------------------------------------------------------------------------------


def test_in_the_end_game_blocks_are_asked_of_others_and_cancelled_on_arrival() -> None:
    picker = new_picker(pieces=1)
    picker.peer_joined(Bitfield.full(1))
    mine = picker.pick("slow", Bitfield.full(1), 99)
    assert len(mine) == 4
    assert sorted(picker.pick("fast", Bitfield.full(1), 99)) == sorted(mine)
    assert picker.pick("fast", Bitfield.full(1), 99) == []
    outcome = picker.received("fast", 0, 0, content(mine[0]))
    assert (outcome.arrival, outcome.others) == (Arrival.FRESH, ("slow",))
    assert picker.received("slow", 0, 0, content(mine[0])).arrival is Arrival.DUPLICATE


def test_there_is_no_end_game_while_somebody_has_a_block_nobody_was_asked_for() -> None:
    picker = new_picker(pieces=2)
    picker.peer_joined(bits(2, 0))
    picker.peer_joined(bits(2, 0, 1))
    picker.pick("a", bits(2, 0), 99)
    assert picker.pick("b", bits(2, 0), 99) == []
    picker.pick("c", bits(2, 0, 1), 99)
    assert len(picker.pick("b", bits(2, 0), 99)) == 4


def test_pieces_that_nobody_connected_has_do_not_delay_the_end_game() -> None:
    picker = new_picker(pieces=2)
    picker.peer_joined(bits(2, 0))
    picker.pick("a", bits(2, 0), 99)
    assert len(picker.pick("b", bits(2, 0), 99)) == 4


def test_a_block_is_asked_of_at_most_three_peers() -> None:
    picker = new_picker(pieces=1, piece_length=BLOCK)
    assert [len(picker.pick(peer, Bitfield.full(1), 9)) for peer in "abcd"] == [1, 1, 1, 0]


# -- arrival ----------------------------------------------------------------------------------------------------------


def test_a_block_that_fits_no_request_is_not_stored() -> None:
    picker = new_picker(total=8 * 4 * BLOCK - 100)
    block = picker.pick("a", bits(8, 2), 1)[0]
    data = content(block)
    for peer, index, begin, payload in [
        ("b", 2, 0, data),
        ("a", 2, BLOCK, data),
        ("a", 2, 1, data),
        ("a", 2, 0, data[1:]),
        ("a", 2, 0, data + b"x"),
        ("a", 2, 4 * BLOCK, data),
        ("a", 2, -BLOCK, data),
        ("a", 3, 0, data),
        ("a", 8, 0, data),
        ("a", -1, 0, data),
        ("a", 2**32 - 1, 2**32 - BLOCK, data),
    ]:
        assert picker.received(peer, index, begin, payload).arrival is Arrival.UNASKED
    assert picker.received("a", 2, 0, data).arrival is Arrival.FRESH


def test_a_complete_piece_holds_the_bytes_that_arrived_until_it_is_verified() -> None:
    picker = new_picker()
    blocks = picker.pick("a", bits(8, 2), 4)
    with pytest.raises(LookupError):
        picker.buffer(2)
    assert deliver(picker, "a", blocks[::-1]) == [2]
    assert picker.buffer(2) == b"".join(content(block) for block in blocks)
    assert picker.contributors(2) == {"a": blocks}
    picker.piece_verified(2)
    assert picker.wanted_left == 7
    assert picker.memory.used == 0
    assert picker.received("a", 2, 0, content(blocks[0])).arrival is Arrival.DUPLICATE


def test_an_incomplete_piece_is_neither_verified_nor_failed() -> None:
    picker = new_picker()
    picker.pick("a", bits(8, 2), 4)
    for judge in (picker.piece_verified, picker.piece_failed):
        with pytest.raises(ValueError, match="lacks 4 blocks"):
            judge(2)


def test_a_failed_piece_is_asked_for_again_as_a_whole() -> None:
    picker = new_picker()
    blocks = picker.pick("a", bits(8, 2), 4)
    deliver(picker, "a", blocks)
    picker.piece_failed(2)
    assert picker.contributors(2) == {}
    assert picker.pick("b", bits(8, 2), 9) == blocks


def test_a_late_block_is_still_taken_after_it_expired() -> None:
    picker = new_picker(pieces=1)
    blocks = picker.pick("slow", Bitfield.full(1), 4)
    picker.expired("slow")
    assert picker.received("slow", 0, 0, content(blocks[0])).arrival is Arrival.FRESH
    assert picker.pick("fast", Bitfield.full(1), 2) == blocks[1:3]
    assert picker.received("slow", 0, BLOCK, content(blocks[1])).others == ("fast",)
    assert picker.received("fast", 0, 2 * BLOCK, content(blocks[2])).others == ("slow",)
    assert picker.received("slow", 0, 3 * BLOCK, content(blocks[3])).complete


def test_a_late_peer_is_not_asked_again_before_everything_is_released() -> None:
    picker = new_picker(pieces=1)
    blocks = picker.pick("slow", Bitfield.full(1), 4)
    picker.expired("slow")
    assert picker.pick("slow", Bitfield.full(1), 4) == []
    picker.released_all("slow")
    assert picker.pick("slow", Bitfield.full(1), 4) == blocks


def test_a_rejected_block_goes_to_somebody_else() -> None:
    picker = new_picker(pieces=1)
    blocks = picker.pick("a", Bitfield.full(1), 4)
    picker.released("a", [blocks[2], Block(0, 7 * BLOCK, BLOCK), Block(5, 0, BLOCK)])
    assert picker.pick("b", Bitfield.full(1), 4) == [blocks[2]]


def test_remaining_bytes_count_what_is_not_there() -> None:
    picker = new_picker(total=7 * 4 * BLOCK + 100)
    assert picker.remaining_bytes == 7 * 4 * BLOCK + 100
    deliver(picker, "a", picker.pick("a", bits(8, 7), 1))
    assert picker.remaining_bytes == 7 * 4 * BLOCK
    picker.piece_verified(7)
    deliver(picker, "a", picker.pick("a", bits(8, 1), 3))
    assert picker.remaining_bytes == 7 * 4 * BLOCK - 3 * BLOCK


def test_what_is_there_at_the_start_is_not_fetched() -> None:
    picker = new_picker(have=bits(8, *range(7)))
    assert {block.index for block in picker.pick("a", Bitfield.full(8), 99)} == {7}
    assert not picker.is_interesting(bits(8, 1, 2))
    assert picker.is_interesting(bits(8, 7))


def test_a_torrent_without_pieces_wants_nothing() -> None:
    picker = Picker(0, BLOCK, 0, Bitfield(0), random.Random(1), PieceMemory(0))
    assert picker.pick("a", Bitfield(0), 5) == []
    assert (picker.wanted_left, picker.remaining_bytes, picker.is_interesting(Bitfield(0))) == (0, 0, False)


# -- parole -----------------------------------------------------------------------------------------------------------


def test_a_suspect_gets_whole_pieces_alone() -> None:
    picker = new_picker(pieces=3)
    other = picker.pick("other", Bitfield.full(3), 1)[0].index
    suspect = picker.pick("suspect", Bitfield.full(3), 2, sharing=Sharing.ALONE)
    assert suspect[0].index != other
    helped = picker.pick("other", Bitfield.full(3), 99)
    assert suspect[0].index not in {block.index for block in helped[:7]}
    assert len({block.index for block in helped[:7]}) == 2


def test_a_suspect_begins_anew_what_others_left_when_nothing_else_remains() -> None:
    picker = new_picker(pieces=1)
    deliver(picker, "gone", picker.pick("gone", Bitfield.full(1), 2))
    picker.released_all("gone")
    blocks = picker.pick("suspect", Bitfield.full(1), 9, sharing=Sharing.ALONE)
    assert len(blocks) == 4
    deliver(picker, "suspect", blocks)
    assert set(picker.contributors(0)) == {"suspect"}


def test_a_suspect_may_finish_what_it_alone_began_before() -> None:
    picker = new_picker()
    begun = picker.pick("a", Bitfield.full(8), 1)[0].index
    assert {block.index for block in picker.pick("a", Bitfield.full(8), 3, sharing=Sharing.ALONE)} == {begun}


# -- memory -----------------------------------------------------------------------------------------------------------


def test_at_the_bound_no_piece_is_opened_and_a_verified_one_makes_room() -> None:
    picker = new_picker(memory=2 * 4 * BLOCK)
    blocks = picker.pick("a", Bitfield.full(8), 99)
    assert len(blocks) == 8
    assert picker.pick("a", Bitfield.full(8), 99) == []
    complete = deliver(picker, "a", blocks)
    assert picker.pick("a", Bitfield.full(8), 99) == []
    picker.piece_verified(complete[0])
    assert len(picker.pick("a", Bitfield.full(8), 99)) == 4


def test_a_piece_larger_than_the_bound_is_fetched_alone() -> None:
    picker = new_picker(memory=BLOCK)
    assert len(picker.pick("a", Bitfield.full(8), 99)) == 4


def test_torrents_share_one_bound_and_each_may_hold_one_piece() -> None:
    memory = PieceMemory(4 * 4 * BLOCK)
    pickers = [Picker(8, 4 * BLOCK, 32 * BLOCK, Bitfield(8), random.Random(1), memory) for _ in range(2)]
    assert [len(picker.pick("a", Bitfield.full(8), 99)) for picker in pickers] == [16, 4]


def test_stalled_pieces_give_way_to_a_peer_that_can_deliver() -> None:
    picker = new_picker(memory=2 * 4 * BLOCK)
    stalled = picker.pick("a", bits(8, 0, 1), 99)
    deliver(picker, "a", [block for block in stalled if block.index == 0][:2])
    assert picker.pick("b", bits(8, 5), 99) == []
    picker.released_all("a")
    assert len(picker.pick("b", bits(8, 5), 99)) == 4
    assert picker.contributors(0), "the piece with more progress survives"


def test_buffers_are_reused() -> None:
    picker = new_picker()
    deliver(picker, "a", picker.pick("a", bits(8, 2), 4))
    first = picker.buffer(2)
    picker.piece_verified(2)
    deliver(picker, "a", picker.pick("a", bits(8, 3), 4))
    assert picker.buffer(3) is first


# -- random scripts ---------------------------------------------------------------------------------------------------


class Script:
    """A random torrent and random peers; every rule of the picker is checked against a plain model."""

    def __init__(self, seed: int) -> None:
        rng = self.rng = random.Random(seed)
        self.pieces = rng.choice((1, 3, 9, 20))
        self.piece_length = rng.choice((BLOCK, 3 * BLOCK, 5 * BLOCK + 999, 700))
        self.total = (self.pieces - 1) * self.piece_length + rng.randint(1, self.piece_length)
        self.memory = PieceMemory(rng.choice((2, 5, 100)) * self.piece_length)
        self.have = Bitfield(self.pieces)
        self.picker = Picker(self.pieces, self.piece_length, self.total, self.have, rng, self.memory)
        self.theirs: dict[str, Bitfield] = {}
        self.asked: dict[str, set[Block]] = {}
        self.late: dict[str, set[Block]] = {}
        self.there: dict[int, set[Block]] = {}
        self.fetched: Counter[Block] = Counter()
        self.failures: Counter[int] = Counter()
        self.names = iter(f"peer{number}" for number in range(10_000))
        for _ in range(rng.randint(1, 5)):
            self.join(seed=False)
        self.join(seed=True)

    def join(self, *, seed: bool) -> None:
        name = next(self.names)
        theirs = (
            Bitfield.full(self.pieces)
            if seed
            else bits(self.pieces, *(i for i in range(self.pieces) if self.rng.random() < 0.5))
        )
        self.theirs[name], self.asked[name], self.late[name] = theirs, set(), set()
        self.picker.peer_joined(theirs)

    def step(self) -> None:
        peer = self.rng.choice(list(self.theirs))
        chance = self.rng.random()
        if chance < 0.45:
            self.pick(peer)
        elif chance < 0.90:
            self.deliver(peer)
        elif chance < 0.92:
            self.reject(peer)
        elif chance < 0.94:
            self.picker.expired(peer)
            self.late[peer] |= self.asked[peer]
        elif chance < 0.96:
            self.picker.released_all(peer)
            self.asked[peer].clear()
            self.late[peer].clear()
        elif chance < 0.98:
            self.announce(peer)
        elif len(self.theirs) > 1 and not self.theirs[peer].complete:
            self.leave(peer)
        else:
            self.join(seed=False)
        self.check()

    def pick(self, peer: str) -> None:
        sharing = self.rng.choices(list(Sharing), (6, 3, 1))[0]
        fast = self.rng.sample(range(self.pieces), 1) if self.rng.random() < 0.1 else None
        end_game = self.picker.in_end_game
        before = dict(self.picker._open)
        blocks = self.picker.pick(peer, self.theirs[peer], self.rng.randint(1, 9), sharing=sharing, allowed_fast=fast)
        self.forget({i for i, piece in before.items() if self.picker._open.get(i) is not piece})
        busy = {block for other, asked in self.asked.items() for block in asked - self.late[other]}
        for block in blocks:
            assert block.index in self.theirs[peer]
            assert block not in self.asked[peer], "asked twice of one peer"
            assert block not in self.there.get(block.index, ()), "asked for what is there"
            assert block.index not in self.have
            assert end_game or self.picker.in_end_game or block not in busy, "asked of two outside the end game"
            assert fast is None or block.index in fast
            self.asked[peer].add(block)

    def deliver(self, peer: str) -> None:
        for block in sorted(self.asked[peer])[: self.rng.randint(1, 4)]:
            self.asked[peer].discard(block)
            self.late[peer].discard(block)
            outcome = self.picker.received(peer, block.index, block.begin, content(block))
            assert outcome.arrival is Arrival.FRESH
            self.there.setdefault(block.index, set()).add(block)
            self.fetched[block] += 1
            for other in outcome.others:
                self.asked[str(other)].remove(block)
                self.late[str(other)].discard(block)
            assert not any(block in asked for asked in self.asked.values()), "others were not told to cancel"
            if outcome.complete:
                self.judge(block.index)

    def picker_knows(self, peer: str) -> set[Block]:
        """What the picker thinks this peer was asked for."""
        return {
            piece.block(block)
            for piece in self.picker._open.values()
            for block in range(piece.blocks)
            if piece.asked_of(block, peer)
        }

    def judge(self, index: int) -> None:
        blocks = sorted(self.there.pop(index))
        assert self.picker.buffer(index)[: self.picker.piece_size(index)] == b"".join(map(content, blocks))
        assert sorted(block for sent in self.picker.contributors(index).values() for block in sent) == blocks
        if self.rng.random() < 0.15:
            self.picker.piece_failed(index)
            self.failures[index] += 1
        else:
            self.picker.piece_verified(index)

    def reject(self, peer: str) -> None:
        for block in list(self.asked[peer])[:2]:
            self.asked[peer].discard(block)
            self.late[peer].discard(block)
            self.picker.released(peer, [block])

    def announce(self, peer: str) -> None:
        index = self.rng.randrange(self.pieces)
        if self.theirs[peer].add(index):
            self.picker.peer_has(index)

    def leave(self, peer: str) -> None:
        self.picker.released_all(peer)
        self.picker.peer_left(self.theirs.pop(peer))
        del self.asked[peer], self.late[peer]

    def check(self) -> None:
        picker = self.picker
        for index in range(self.pieces):
            states = (picker._is_fresh(index), index in picker._open, index in self.have)
            assert sum(states) == 1, "a piece is in exactly one state"
        assert self.memory.used == sum(picker.piece_size(index) for index in picker._open)
        assert self.memory.used <= max(self.memory.limit, self.piece_length)
        for piece in picker._open.values():
            for block in range(piece.blocks):
                there = piece.senders[block] is not None
                free = block in piece.free
                asked = piece.requests(block) > 0
                assert there + max(free, asked) == 1, "a block is in exactly one state"
            assert bool(piece.free) == (piece.index in picker._unfilled)
            assert (piece.index in picker._orphans) == (bool(piece.free) and piece.owner is None)
            assert piece.owner is None or piece.free
            assert piece.left == piece.blocks - sum(sender is not None for sender in piece.senders)
        for index, blocks in self.there.items():
            assert {block for sent in picker.contributors(index).values() for block in sent} == blocks
        for peer, asked in self.asked.items():
            assert asked == self.picker_knows(peer)

    def forget(self, indices: set[int]) -> None:
        """These pieces were dropped or begun anew: what was there is lost, and with it late requests, but no others."""
        for index in indices:
            for block in self.there.pop(index, ()):
                self.fetched[block] -= 1
        for peer, asked in self.asked.items():
            gone = {block for block in asked if block.index in indices}
            assert gone <= self.late[peer]
            asked -= gone
            self.late[peer] -= gone

    def finish(self) -> None:
        for _ in range(20_000):
            if not self.picker.wanted_left:
                break
            for peer in list(self.theirs):
                if self.late[peer]:
                    self.picker.released_all(peer)
                    self.asked[peer].clear()
                    self.late[peer].clear()
                self.pick(peer)
                self.deliver(peer)
        self.check()
        assert self.have.complete
        assert self.memory.used == 0
        for index in range(self.pieces):
            blocks = -(-self.picker.piece_size(index) // BLOCK)
            for block in range(blocks):
                begin = block * BLOCK
                length = min(BLOCK, self.picker.piece_size(index) - begin)
                assert self.fetched[Block(index, begin, length)] == 1 + self.failures[index], "delivered exactly once"
        assert not self.picker._pieces._involved
        assert not self.picker._pieces._filling


def seeds() -> Iterator[int]:
    base = random.SystemRandom().getrandbits(24) << 16
    yield from (base + number for number in range(1000))


def test_a_thousand_random_scripts_keep_every_rule_and_complete() -> None:
    for seed in seeds():
        script = Script(seed)
        try:
            for _ in range(30):
                script.step()
            script.finish()
        except BaseException:
            print(f"Script({seed})")
            raise
