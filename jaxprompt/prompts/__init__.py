"""Prompts: kinds, where they stand, the prompted model, PEFT's adapters."""
