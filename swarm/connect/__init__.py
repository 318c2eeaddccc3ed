"""The ordered ways to reach a peer."""
