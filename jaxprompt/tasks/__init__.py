"""Tasks: the template of every arm, the three built-ins, metrics."""
