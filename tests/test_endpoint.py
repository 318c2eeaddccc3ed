"""Hosts and ports from text."""

from __future__ import annotations

import pytest

from swarm.endpoint import Endpoint, parse_endpoint, split_host_port


@pytest.mark.parametrize("port", ["", "0", "65536", "-1", "+1", "1_0", "1e3", "٣", "000001", "00010203040506"])
def test_a_port_is_up_to_five_digits_between_1_and_65535(port: str) -> None:
    """Digits that only begin like a port were taken whole: found by fuzzing magnet links."""
    with pytest.raises(ValueError, match="no port"):
        split_host_port(f"192.0.2.1:{port}")


def test_addresses_are_read_in_their_canonical_form() -> None:
    assert parse_endpoint("192.0.2.1:65535") == Endpoint("192.0.2.1", 65535)
    assert parse_endpoint("[2001:DB8:0::1]:1") == Endpoint("2001:db8::1", 1)
    assert split_host_port("peer.example:6881") == ("peer.example", 6881)


@pytest.mark.parametrize("text", ["192.0.2.1", ":1", "2001:db8::1:6881", "[]:1"])
def test_what_is_not_host_and_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        split_host_port(text)
