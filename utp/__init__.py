"""A BitTorrent µTP (BEP 29) that stands alone: a sans-IO core and a trio face.  It knows nothing of swarm.

The core is `UtpEndpoint`; `utp.service` (which needs trio, and is therefore not imported here) makes streams of it.
"""

from utp.config import UtpConfig
from utp.connection import Connection, ConnectionStatistics, State
from utp.endpoint import Accepted, Changed, EndpointStatistics, Result, UtpEndpoint
from utp.errors import ConnectionLost, LocalProtocolError, RemoteProtocolError, UtpError
from utp.path import Outgoing, Path

__all__ = [
    "Accepted",
    "Changed",
    "Connection",
    "ConnectionLost",
    "ConnectionStatistics",
    "EndpointStatistics",
    "LocalProtocolError",
    "Outgoing",
    "Path",
    "RemoteProtocolError",
    "Result",
    "State",
    "UtpConfig",
    "UtpEndpoint",
    "UtpError",
]
