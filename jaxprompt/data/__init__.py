"""Data: rows from files or the hub, tokens, and placed batches."""
