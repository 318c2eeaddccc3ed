"""Which address of ours anybody on the internet can send to, by the interface list alone (no NAT is asked).

An IPv6 address that is being given up (deprecated, RFC 4862) is not told to anybody.  Of the others the temporary one
(RFC 8981) is preferred, as the kernel does for what we dial: peers see that one anyway, and the stable one tells them
more about the machine than they need to know.  The node asks again whenever the addresses change.
"""

from __future__ import annotations

from ipaddress import ip_address

from swarm.net.network import Network


def global_address(network: Network, *, ipv6: bool) -> str | None:
    """The address, None where there is none: behind a NAT no interface has one."""
    candidates = [
        address
        for interface in network.interfaces()
        if interface.up and not interface.loopback
        for address in interface.addresses
        if (":" in address.host) is ipv6 and not address.deprecated and ip_address(address.host).is_global
    ]
    return min(candidates, key=lambda address: not address.temporary).host if candidates else None
