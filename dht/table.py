"""`RoutingTable`: the nodes we know to be alive, more of them the closer they are to our own id (BEP 5).

Only nodes that have answered a query of ours get in.  Bucket ``i`` holds those that share exactly ``i`` leading bits
with our id, the last bucket all that share more; only the last one splits.  Asks nobody anything: `dht.node` does.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from dht.address import neighbourhood_of, owner_of
from dht.compact import encode_peer
from dht.datagram import Address
from dht.nodeid import ID_BITS, number, shared_bits

K = 8  # nodes in a bucket, and in an answer
GOOD_FOR = 15 * 60.0  # seconds
BAD_AFTER = 3  # queries in a row without an answer; with 20 % loss each way, two happen to one node in eight
MAX_REPLACEMENTS = K

NEVER = float("-inf")


class Contact:
    """A node in the table.  Its id and address never change; one that comes back with others is another contact."""

    __slots__ = ("address", "answered_at", "asked_us_at", "compact", "failures", "network", "node_id", "number")

    def __init__(self, node_id: bytes, address: Address, now: float) -> None:
        self.node_id = node_id
        self.number = int.from_bytes(node_id, "big")
        self.address = address
        self.compact = node_id + encode_peer(address)
        self.network = neighbourhood_of(address)
        self.answered_at = now
        self.asked_us_at = NEVER
        self.failures = 0

    @property
    def bad(self) -> bool:
        return self.failures >= BAD_AFTER

    def is_questionable(self, now: float) -> bool:
        """Neither an answer nor a query from it in the last 15 minutes, or its last answer is overdue."""
        return self.failures > 0 or max(self.answered_at, self.asked_us_at) <= now - GOOD_FOR


class RoutingTable:
    """Buckets of `Contact`.

    One contact per host in the whole table and one per /24 (IPv6: /64) in a bucket, so that owning one network does
    not mean owning a bucket; local hosts are exempt.  A full bucket keeps up to k spare nodes to replace those that
    go bad.  Bad contacts stay until somebody can take their place: an outage of ours must not empty the table.
    """

    def __init__(self, own_id: bytes) -> None:
        self._own = number(own_id)
        self._buckets = [_Bucket()]
        self._by_owner: dict[Hashable, Contact] = {}  # spares included

    def __len__(self) -> int:
        """Contacts that are not bad."""
        return sum(not contact.bad for contact in self.contacts())

    @property
    def depth(self) -> int:
        """How many buckets there are: log2 of the network's size, roughly, less 2."""
        return len(self._buckets)

    def contacts(self) -> Iterator[Contact]:
        for bucket in self._buckets:
            yield from bucket.contacts

    def answered(self, node_id: bytes, address: Address, now: float) -> None:
        """This node answered a query of ours: keep it, or keep it as a spare, or note that it lives."""
        known = self._by_owner.get(owner_of(address))
        if known is not None and known.node_id == node_id and known.address == address:
            bucket = self._bucket_of(known.number)
            bucket.changed_at = known.answered_at = now
            known.failures = 0
            bucket.answer = None
            return
        if known is not None:
            if known.address != address and not known.bad:
                return
            self._drop(known)
        self._insert(Contact(node_id, address, now), now)

    def asked_us(self, node_id: bytes, address: Address, now: float) -> bool:
        """This node sent us a query.  True when it is not known and a place is free: it is worth a ping."""
        known = self._by_owner.get(owner_of(address))
        if known is not None:
            if known.node_id == node_id and known.address == address:
                known.asked_us_at = now
                return False
            return known.bad
        their_number = int.from_bytes(node_id, "big")
        bucket = self._bucket_of(their_number)
        if bucket.has_place(neighbourhood_of(address)):
            return their_number != self._own
        return bucket is self._buckets[-1] and their_number != self._own

    def failed(self, address: Address) -> None:
        """A query to ``address`` fell silent."""
        known = self._by_owner.get(owner_of(address))
        if known is None or known.address != address:
            return
        known.failures += 1
        if known.bad:
            bucket = self._bucket_of(known.number)
            bucket.answer = None
            bucket.replace(known, self._by_owner)

    def remove(self, address: Address) -> None:
        """Forget whoever is there: it lied."""
        known = self._by_owner.get(owner_of(address))
        if known is not None and known.address == address:
            self._drop(known)

    def closest(self, target: bytes, count: int = K) -> list[Contact]:
        """The ``count`` contacts closest to ``target``, closest first; bad ones only where there are no others."""
        goal = int.from_bytes(target, "big")
        found: list[Contact] = []
        for contacts in self._by_distance(shared_bits(self._own, goal)):
            found += sorted(contacts, key=lambda contact: contact.number ^ goal)
            if len(found) >= count:
                break
        if not found:
            found = sorted(self.contacts(), key=lambda contact: contact.number ^ goal)
        return found[:count]

    def closest_compact(self, target: bytes) -> bytes:
        """The k closest in compact form, in any order, as they go into an answer.

        Where the target's own bucket is full, it is the answer whatever the target: nothing is sorted, and the bucket
        remembers it.
        """
        bucket = self._bucket_of(int.from_bytes(target, "big"))
        if bucket.answer is not None:
            return bucket.answer
        if len(bucket.contacts) == K:
            live = bucket.live()
            if len(live) == K:
                bucket.answer = b"".join([contact.compact for contact in live])
                return bucket.answer
        return b"".join([contact.compact for contact in self.closest(target) if contact.failures < BAD_AFTER])

    def take_questionable(self, now: float) -> list[Contact]:
        """From each bucket the one that was silent for longest, if it is questionable: to be pinged."""
        found = []
        for bucket in self._buckets:
            questionable = [contact for contact in bucket.contacts if contact.is_questionable(now)]
            if questionable:
                found.append(min(questionable, key=lambda contact: max(contact.answered_at, contact.asked_us_at)))
        return found

    def take_stale_bucket(self, now: float) -> int | None:
        """The index of a bucket to refresh; it counts as refreshed from now on.

        One in which nothing has changed for 15 minutes (BEP 5), or that never was refreshed (Kademlia §2.3: who joins
        refreshes all).
        """
        for index, bucket in enumerate(self._buckets):
            if not bucket.refreshed or bucket.changed_at <= now - GOOD_FOR:
                bucket.refreshed = True
                bucket.changed_at = now
                return index
        return None

    def move(self, own_id: bytes) -> None:
        """Our id has changed: sort all contacts into buckets again."""
        known = [*self.contacts(), *(spare for bucket in self._buckets for spare in bucket.spares)]
        self._own = number(own_id)
        self._buckets = [_Bucket()]
        self._by_owner = {}
        for contact in known:
            self._insert(contact, contact.answered_at)

    def _by_distance(self, bits: int) -> Iterator[list[Contact]]:
        """Live contacts in groups, each wholly closer than the next to an id sharing ``bits`` bits with ours."""
        last = len(self._buckets) - 1
        if bits < last:
            yield self._buckets[bits].live()
            yield [contact for bucket in self._buckets[bits + 1 :] for contact in bucket.live()]
        else:
            bits = last
            yield self._buckets[last].live()
        for index in range(bits - 1, -1, -1):
            yield self._buckets[index].live()

    def _bucket_of(self, their_number: int) -> _Bucket:
        bits = ID_BITS - (self._own ^ their_number).bit_length()
        return self._buckets[bits] if bits < len(self._buckets) else self._buckets[-1]

    def _insert(self, contact: Contact, now: float) -> None:
        if contact.number == self._own:
            return
        bucket = self._bucket_of(contact.number)
        while bucket is self._buckets[-1] and len(bucket.contacts) >= K and len(self._buckets) < ID_BITS:
            self._split()
            bucket = self._bucket_of(contact.number)
        if bucket.add(contact, self._by_owner):
            self._by_owner[owner_of(contact.address)] = contact
            bucket.changed_at = max(bucket.changed_at, now)

    def _split(self) -> None:
        full = self._buckets.pop()
        bits = len(self._buckets)
        near, far = _Bucket(), _Bucket()
        near.changed_at = far.changed_at = full.changed_at
        self._buckets += [far, near]
        for contact in full.contacts:
            (near if shared_bits(self._own, contact.number) > bits else far).put_in(contact)
        for spare in full.spares:
            del self._by_owner[owner_of(spare.address)]
        for spare in full.spares:
            if (near if shared_bits(self._own, spare.number) > bits else far).add(spare, self._by_owner):
                self._by_owner[owner_of(spare.address)] = spare

    def _drop(self, contact: Contact) -> None:
        del self._by_owner[owner_of(contact.address)]
        bucket = self._bucket_of(contact.number)
        if contact in bucket.spares:
            bucket.spares.remove(contact)
        else:
            bucket.take_out(contact)
            bucket.promote()


class _Bucket:
    """Up to k contacts, and spares in the order in which they were last heard of."""

    __slots__ = ("answer", "changed_at", "contacts", "refreshed", "spares")

    def __init__(self) -> None:
        self.contacts: list[Contact] = []
        self.spares: list[Contact] = []
        self.answer: bytes | None = None
        """k live contacts in compact form; None where there are not so many, or they changed."""
        self.changed_at = NEVER
        self.refreshed = False

    def live(self) -> list[Contact]:
        return [contact for contact in self.contacts if contact.failures < BAD_AFTER]

    def has_place(self, network: Hashable) -> bool:
        """Whether a contact of ``network`` would get in."""
        live = self.live()
        return len(live) < K and not any(contact.network == network for contact in live)

    def add(self, contact: Contact, by_owner: dict[Hashable, Contact]) -> bool:
        """As a contact, in the place of a bad one, or as a spare; False when its network is represented already."""
        for other in self.contacts:
            if other.network == contact.network:
                if not other.bad:
                    return False
                self._evict(other, by_owner)
                break
        if len(self.contacts) >= K:
            bad = next((other for other in self.contacts if other.bad), None)
            if bad is not None:
                self._evict(bad, by_owner)
        if len(self.contacts) < K:
            self.put_in(contact)
            return True
        self.spares.append(contact)
        if len(self.spares) > MAX_REPLACEMENTS:
            del by_owner[owner_of(self.spares.pop(0).address)]
        return True

    def replace(self, bad: Contact, by_owner: dict[Hashable, Contact]) -> None:
        """Put the youngest spare in the place of a contact that went bad, if there is one."""
        if bad in self.spares:
            self.spares.remove(bad)
            del by_owner[owner_of(bad.address)]
        elif self.spares:
            self._evict(bad, by_owner)
            self.promote()

    def promote(self) -> None:
        """Fill a free place with the youngest spare whose network is not represented."""
        for spare in reversed(self.spares):
            if not any(contact.network == spare.network for contact in self.contacts):
                self.spares.remove(spare)
                self.put_in(spare)
                return

    def put_in(self, contact: Contact) -> None:
        self.contacts.append(contact)
        self.answer = None

    def take_out(self, contact: Contact) -> None:
        self.contacts.remove(contact)
        self.answer = None

    def _evict(self, contact: Contact, by_owner: dict[Hashable, Contact]) -> None:
        self.take_out(contact)
        del by_owner[owner_of(contact.address)]
