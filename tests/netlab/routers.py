"""What the laboratory's routers do, by kind: nftables rules, and a miniupnpd's configuration.  Starts nothing."""

from __future__ import annotations

OPEN = {"open", "v6open"}
"""The kinds without a router."""

UPNP, NATPMP, BOTH = ("yes", "no"), ("no", "yes"), ("yes", "yes")
GATEWAYS = {"upnp": UPNP, "natpmp": NATPMP, "cgn": BOTH, "cgnsym": BOTH, "v6pin": NATPMP, "v6upnp": UPNP}
"""Which kinds have a miniupnpd, and whether it speaks UPnP, and NAT-PMP with PCP."""

PORTS = {UPNP: [":1900", ":5000"], NATPMP: [":5351"], BOTH: [":1900", ":5000", ":5351"]}
GATEWAY_PORTS = {kind: PORTS[speaks] for kind, speaks in GATEWAYS.items()}
"""Where the miniupnpd of each kind listens."""

CARRIERS = {"cgn": "cone", "cgnsym": "symrand"}
"""Which kinds have a carrier's NAT outside the home's, and of what kind it is."""


def _sequential(wan: str) -> str:
    ports = ", ".join(f"{number} : {wan} . {40000 + number}" for number in range(2000))
    return f'oifname "wan" meta l4proto {{ tcp, udp }} snat ip to numgen inc mod 2000 map {{ {ports} }}'


MASQUERADE = 'oifname "wan" meta nfproto ipv4 masquerade'
INWARD = "meta nfproto ipv4 meta l4proto { tcp, udp } th dport 1024-65535 dnat ip to"

RULES = {
    # kind: what happens before routing, after routing, and to forwarded packets; {wan} and {lan} are addresses
    "fullcone": (f'iifname "wan" {INWARD} {{lan}}', MASQUERADE, ""),
    "restricted": (
        f'iifname "wan" ip saddr @contacted {INWARD} {{lan}}',
        MASQUERADE,
        'oifname "wan" update @contacted { ip daddr }',
    ),
    "cone": ("", MASQUERADE, ""),
    "symseq": ("", "{sequential}", ""),
    "symrand": ("", f"{MASQUERADE} fully-random", ""),
    "udpblock": ("", MASQUERADE, "meta l4proto udp drop"),
    "hairpin": (
        f'iifname "lan" ip daddr {{wan}} {INWARD} {{lan}}',
        f'oifname "lan" ct status dnat ip saddr {{lan}}/24 snat ip to {{wan}}; {MASQUERADE}',
        "",
    ),
}
"""RFC 4787 in nftables.  Linux preserves ports and filters by address and port unless told otherwise.  "hairpin" is a
cone that turns around what the LAN sends to the router's outside address, under that address (REQ-9)."""


def home_nat(kind: str) -> str:
    """The `RULES` of the home router of a kind: behind a carrier, and where ports can be opened, it is "cone"."""
    return kind if kind in RULES else "cone"


def rules(kind: str, wan: str, lan: str) -> str:
    """The router's ruleset.  Uninvited packets for the router itself are dropped, or they would leave a conntrack entry
    with which the next packet out collides and changes its port."""
    before, after, forwarded = (text.replace("{lan}", lan).replace("{wan}", wan) for text in RULES[kind])
    after = _sequential(wan) if kind == "symseq" else after
    return f"""
table inet lab {{
  set contacted {{ type ipv4_addr; flags dynamic,timeout; timeout 120s; }}
  chain miniupnpd {{ }}
  chain prerouting_miniupnpd {{ type nat hook prerouting priority dstnat - 5; policy accept; }}
  chain postrouting_miniupnpd {{ type nat hook postrouting priority srcnat - 5; policy accept; }}
  chain before {{ type nat hook prerouting priority dstnat; policy accept;
    {before}
  }}
  chain after {{ type nat hook postrouting priority srcnat; policy accept;
    {after}
  }}
  chain forward {{ type filter hook forward priority filter; policy drop;
    {forwarded}
    ct state established,related accept
    iifname "lan" accept
    ct status dnat accept
    jump miniupnpd
  }}
  chain input {{ type filter hook input priority filter; policy accept;
    ct state established,related accept
    meta l4proto ipv6-icmp accept
    iifname "wan" drop
  }}
}}
"""


MINIUPNPD = """
ext_ifname=wan
{external}
listening_ip=lan
http_port=5000
enable_upnp={upnp}
enable_natpmp={natpmp}
ipv6_disable=no
secure_mode=yes
system_uptime=no
uuid=00000000-0000-4000-8000-000000000001
force_igd_desc_v1=no
allow 1024-65535 0.0.0.0/0 1024-65535
upnp_table_name=lab
upnp_nat_table_name=lab
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
"""
