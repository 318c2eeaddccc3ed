"""Sockets: the one door to the operating system and what hangs off it."""
