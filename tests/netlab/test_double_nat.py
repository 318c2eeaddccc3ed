"""A second NAT beyond the home router's: what a node concludes from what a real miniupnpd behind a carrier's says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.needs import need_program
from tests.netlab.doctor import PORT, Doctor, start_dht
from tests.netlab.lab import Lab, end, wait_for_gateway
from tests.netlab.routers import GATEWAYS

pytestmark = pytest.mark.netlab


@pytest.fixture
def lab() -> Iterator[Lab]:
    for program in ("miniupnpd", "ss"):
        need_program(program)
    with Lab(ipv6=False) as made:
        yield made


@pytest.mark.parametrize("says", [None, "11.11.11.200"])
def test_a_second_nat_beyond_the_gateway(lab: Lab, says: str | None) -> None:
    """A miniupnpd whose outside address is a carrier's names none and opens nothing: then nobody can tell a second NAT.

    One that was configured with a public address, an old one say, opens ports and is found out: others see another.
    """
    bootstrap = start_dht(lab)
    machine = lab.behind("cgn", "h")
    router = machine.router
    assert router is not None
    if says is not None:
        end(router.processes[-1])
        lab.start_gateway(router, *GATEWAYS["cgn"], says=says)
    wait_for_gateway(machine)
    document = Doctor(lab, machine, bootstrap).document()
    nat = document["nat"]["v4"]
    assert [endpoint.rpartition(":")[0] for endpoint in nat["external"]] == [machine.external]
    opened = {lease["external"] for lease in document["gateway"] if lease["external"] is not None}
    if says is None:
        assert (nat["double_nat"], opened) == (None, set())
        assert "names no outside address either" in " ".join(document["advice"])
    else:
        assert (nat["double_nat"], opened) == (True, {f"{says}:{PORT}"})
