"""A simulated internet: a Network for tests and the demo; imported by nothing else."""
