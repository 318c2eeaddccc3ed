"""What is to be found out about the NATs of the catalogue."""

from __future__ import annotations

from swarm.connect.report import Behaviour
from swarm.simnet.catalogue import KINDS
from swarm.simnet.nat import Dependence


def expected(kind: str) -> tuple[Behaviour, Behaviour]:
    """Mapping and filtering, as the catalogue says: the strictest of the NATs one behind the other decides."""
    nats = [nat for nat in (KINDS[kind].home, KINDS[kind].carrier) if nat is not None]
    if "udp" in KINDS[kind].blocks:
        return "unknown", "unknown"
    if not nats:
        return "none", "none"
    order = list(Dependence)
    mapping = max((nat.mapping for nat in nats), key=order.index)
    filtering = max((nat.filtering for nat in nats), key=order.index)
    return mapping.value, filtering.value
