"""Frozen language models: `base` the interface, `loading` the door, then families."""
