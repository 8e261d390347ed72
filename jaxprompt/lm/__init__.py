"""Frozen language models: `model` their functions, `loading` the door, the families."""
