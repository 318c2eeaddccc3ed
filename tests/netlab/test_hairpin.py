"""Hairpinning (RFC 4787 §6) on kernel NATs: what a node's `NatReport` says, and whether it is so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.netlab.doctor import Doctor, start_dht
from tests.netlab.lab import Lab
from tests.netlab.test_lab import PORT, UDP, send

pytestmark = pytest.mark.netlab


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(ipv6=False) as made:
        yield made


def test_the_report_says_whether_the_router_hairpins(lab: Lab) -> None:
    bootstrap = start_dht(lab)
    doctors = {kind: Doctor(lab, lab.behind(kind, kind), bootstrap) for kind in ("hairpin", "cone")}
    reports = {kind: doctor.document()["nat"]["v4"] for kind, doctor in doctors.items()}
    assert {kind: report["mapping"] for kind, report in reports.items()} == dict.fromkeys(
        doctors, "endpoint-independent"
    )
    assert {kind: report["hairpin"] for kind, report in reports.items()} == {"hairpin": True, "cone": False}
    assert "A packet to our own outside endpoint came back in." in reports["hairpin"]["evidence"]


@pytest.mark.parametrize("kind", ["hairpin", "cone"])
def test_neighbours_meet_at_the_outside_address_of_a_router_that_hairpins(lab: Lab, kind: str) -> None:
    one, public = lab.behind(kind, "h"), lab.public("p")
    other = lab.sibling("h2", one)
    with (
        closing(one.bind(UDP, PORT)) as first,
        closing(other.bind(UDP, 7000)) as second,
        closing(public.bind(UDP, 6000)) as outside,
    ):
        assert send(first, outside, (public.address, 6000)) == (one.external, PORT)
        seen = send(second, first, (one.external, PORT))
        if kind == "cone":
            assert seen is None
        else:
            assert seen == (one.external, 7000)
            assert send(first, second, seen) == (one.external, PORT)
