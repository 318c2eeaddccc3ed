"""Peer-wire and tracker codecs: bytes to messages and back, without I/O."""
