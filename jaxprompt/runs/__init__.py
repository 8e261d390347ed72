"""Runs: the workdir and its files, set-up, comparison, sweeps."""
