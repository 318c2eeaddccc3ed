"""BEP 10 extensions, one file each."""
