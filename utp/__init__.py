"""A BitTorrent µTP (BEP 29) that stands alone: a sans-IO core and a trio face.  It knows nothing of swarm."""
