"""A second NAT beyond the home router's: what a node concludes from what a real miniupnpd behind a carrier's says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.needs import need_program
from tests.netlab.doctor import PORT, Doctor, start_dht
from tests.netlab.lab import Lab, end, wait_for_gateway
from tests.netlab.routers import BOTH, NATPMP, UPNP

pytestmark = pytest.mark.netlab


@pytest.fixture
def lab() -> Iterator[Lab]:
    for program in ("miniupnpd", "ss"):
        need_program(program)
    with Lab(ipv6=False) as made:
        yield made


@pytest.mark.parametrize(
    ("speaks", "says"), [(UPNP, None), (NATPMP, None), (BOTH, "11.11.11.200")], ids=["upnp", "natpmp", "public"]
)
def test_a_second_nat_beyond_the_gateway(lab: Lab, speaks: tuple[str, str], says: str | None) -> None:
    """A miniupnpd whose outside address is a carrier's names none and opens nothing, and all the same we are seen.

    One that was configured with a public address, an old one say, opens ports and is found out: others see another.
    """
    bootstrap = start_dht(lab)
    machine = lab.behind("cgn", "h")
    router = machine.router
    assert router is not None
    wait_for_gateway(machine)
    end(router.processes[-1])
    lab.start_gateway(router, *speaks, says=says)
    document = Doctor(lab, machine, bootstrap).document()
    nat = document["nat"]["v4"]
    assert [endpoint.rpartition(":")[0] for endpoint in nat["external"]] == [machine.external]
    opened = {lease["external"] for lease in document["gateway"] if lease["external"] is not None}
    if says is None:
        assert (nat["double_nat"], opened) == (True, set())
        assert "Our gateway says that it has no outside address" in " ".join(nat["evidence"])
        assert "names no outside address either" in " ".join(document["advice"])
    else:
        assert (nat["double_nat"], opened) == (True, {f"{says}:{PORT}"})
