"""Batches of a split's rows on the devices, by epoch and by position in it."""

import jax
import numpy as np

from jaxprompt.data import buckets
from jaxprompt.data import collate


class Loader:
  """Groups rows of like length, and places their batches with their contexts."""

  def __init__(self, rows, layout, *, batch_size, pad_id, apart=False, contexts=None):
    """Chooses the shapes that the batches are padded to.

    Args:
      rows: `rows_lib.Table`.
      layout: `devices.Layout`.
      batch_size: B, over all devices.
      pad_id: any id of the vocabulary.
      apart: whether source and target are padded apart, as before a suffix prompt.
      contexts: `contexts.Contexts` that keeps the sources of such batches; or None.
    """
    self._rows, self._layout = rows, layout
    self._batch_size, self._pad_id, self._apart = batch_size, pad_id, apart
    self._contexts = contexts
    self._sizes = buckets.bucket_sizes(rows.lengths, apart)
    self.shapes = buckets.shapes(
      self._sizes, batch_size, layout.batches_per_shape, apart
    )

  def __len__(self):
    """The number of batches of an epoch."""
    return len(self.in_order())

  @property
  def padding(self):
    """The share of the tokens that are padding.

    Nearly so in any order: which rows fill up the last batches depends on it.
    """
    padded = self._batch_size * sum(
      length + self._apart * targets for _, (length, targets) in self.in_order()
    )
    return 1 - int(self._rows.lengths.sum()) / padded

  def in_order(self):
    """Returns the batches by length, each (row indices, shape)."""
    return buckets.plan(self._sizes, self.shapes, self._batch_size)

  def epoch(self, seed, number):
    """Returns an epoch's batches, a function of (seed, number) alone."""
    return buckets.epoch_plan(
      self._sizes,
      self.shapes,
      self._batch_size,
      seed=seed,
      epoch=number,
      apart=self._apart,
    )

  def load(self, indices, shape):
    """Returns a batch and its context, or None, on the devices.

    Args:
      indices, shape: of the batch, from `epoch` or `in_order`.
    """
    batch = self._collate(indices, shape)
    return self._layout.place_rows(batch), self._context(indices, batch)

  def load_together(self, planned):
    """Returns the batches of several orders of the same rows as one.

    Args:
      planned: of each of K orders, (indices, shape).

    Returns:
      A batch with arrays [B, K, ...], and its context of [B * K, ...] or None.
    """
    shape = buckets.smallest(self.shapes, [shape for _, shape in planned])
    batches = [self._collate(indices, shape) for indices, _ in planned]
    batch = jax.tree.map(lambda *arrays: np.stack(arrays, axis=1), *batches)
    return self._layout.place_rows(batch), self._context(planned[0][0], batch)

  def _collate(self, indices, shape):
    """Returns this process's rows of a batch."""
    own = self._layout.share(indices, self._batch_size)
    size = len(self._layout.own(self._batch_size))
    rows = [self._rows[i] for i in own]
    return collate.collate(rows, shape, size, self._pad_id, self._apart)

  def _context(self, indices, batch):
    if not self._apart or self._contexts is None:
      return None
    ids, mask = batch.source_ids, batch.source_mask
    flat = (x.reshape(-1, x.shape[-1]) for x in (ids, mask))
    # Any of its rows names the batch: they are together in every epoch.
    return self._contexts.get(indices[0], *flat)
