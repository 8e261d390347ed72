"""Prompt tuning of frozen language models in JAX."""
