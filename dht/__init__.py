"""A mainline Kademlia DHT (BEP 5) that stands alone: a sans-IO core and a trio face.  It knows nothing of swarm."""
