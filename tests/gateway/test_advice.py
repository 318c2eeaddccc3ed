"""What the user is told of a router that opens nothing, beyond what the mapper's own tests show."""

from __future__ import annotations

import pytest

from swarm.endpoint import Endpoint
from swarm.gateway.report import LeaseReport, advice

GATEWAY, INSIDE = "10.1.0.1", Endpoint("10.1.0.2", 6881)


def told(error: str, outsides: list[tuple[str, str]]) -> str:
    reports = [LeaseReport("pcp", "udp", GATEWAY, INSIDE, None, None, error)]
    return " ".join(advice(6881, ["udp"], [(GATEWAY, INSIDE.host)], [], outsides, reports))


@pytest.mark.parametrize("error", ["out-of-resources", "failed", "network-failure"])
def test_a_router_that_refuses_and_names_no_outside_address_may_be_behind_another(error: str) -> None:
    """As miniupnpd at a carrier's address: it answers PCP with NO_RESOURCES, UPnP with 501 and an empty address."""
    assert "names no outside address either" in told(error, [])


@pytest.mark.parametrize("error,outsides", [("timed-out", []), ("failed", [(GATEWAY, "100.64.0.1")])])
def test_nothing_is_guessed_of_a_silent_router_or_one_whose_address_is_known(
    error: str, outsides: list[tuple[str, str]]
) -> None:
    assert "names no outside address either" not in told(error, outsides)
