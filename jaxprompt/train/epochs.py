"""Records of finished epochs."""


def best(records):
  """Returns the epoch of the lowest validation loss, the first of equals; 0 of none."""
  if not records:
    return 0
  return min(records, key=lambda record: record['validation_loss'])['epoch']
