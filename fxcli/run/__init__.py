"""Runs: their directory, checkpoints and model files, what is random in them, and where they come from."""
