"""A cluster that is simulated, for the real scheduler to run."""
