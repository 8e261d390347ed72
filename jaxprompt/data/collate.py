"""From rows to the arrays of a batch."""

import numpy as np

from jaxprompt.prompts import batch as batch_lib


def pad(sequences, length, batch_size, pad_id):
  """Pads on the right to [B, length]; returns ids int32 and the mask of real ones."""
  ids = np.full((batch_size, length), pad_id, np.int32)
  mask = np.zeros((batch_size, length), bool)
  for i, sequence in enumerate(sequences):
    ids[i, : len(sequence)] = sequence
    mask[i, : len(sequence)] = True
  return ids, mask


def collate(rows, shape, batch_size, pad_id, apart=False):
  """Returns the `Batch` of at most `batch_size` rows; the missing ones count nothing.

  Args:
    rows: `Row`s that fit the shape.
    shape: (T, N), or (S, N) if source and target are padded apart.
    batch_size: B.
    pad_id: any id of the vocabulary; masks, not ids, say what is padding.
    apart: whether they are.
  """
  length, targets = shape
  if apart:
    source = pad([row.source_ids for row in rows], length, batch_size, pad_id)
    tokens = pad([row.target_ids for row in rows], targets, batch_size, pad_id)
    starts = [0 for _ in rows]
  else:
    source = (None, None)
    both = [np.concatenate([row.source_ids, row.target_ids]) for row in rows]
    tokens = pad(both, length, batch_size, pad_id)
    starts = [len(row.source_ids) for row in rows]
  positions, loss_mask = pad(
    [
      start + np.arange(len(row.target_ids))
      for start, row in zip(starts, rows, strict=True)
    ],
    targets,
    batch_size,
    pad_id=1,  # any position that has a token before it
  )
  return batch_lib.Batch(*tokens, positions, loss_mask, *source)
