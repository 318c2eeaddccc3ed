"""The ways of opening a port at a real gateway, each a `swarm.gateway.method.Method` over `Network`."""
