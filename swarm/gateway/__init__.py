"""Port mappings on the gateway."""
