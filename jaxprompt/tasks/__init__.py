"""Tasks: templates over columns, the three built-ins, metrics."""
