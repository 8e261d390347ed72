"""Rows of like length share a batch: padded shapes, and an order for every epoch."""

import numpy as np

MAX_SHAPES = 8  # compiled programs a run pays for; padding falls little beyond
# Before a suffix prompt, source tokens are run forward once and kept; target tokens are
# run forward and backward in every epoch, which counts as so many source tokens.
_TARGET_WORK = 3


def shapes(sizes, batch_size, batches_per_shape, apart=False):
  """Chooses the padded shapes that a split's batches come in, at most `MAX_SHAPES`.

  They have the least padding that so many can have, fewer when there are few batches
  to share them. Where source and target are padded apart, there are groups of shapes by
  the target's length, with as many lengths of the source in each.

  Args:
    sizes: [E, 2], the rows' own (T, N), or (S, N) before a suffix prompt.
    batch_size: rows a batch.
    batches_per_shape: how many batches make a shape of their own worth compiling.
    apart: whether source and target are padded apart.

  Returns:
    Shapes like the sizes: a row belongs to the first that holds it, and the last one
    holds all. The N of a shape (T, N) holds the targets of all rows up to T tokens,
    since a row may be moved up, never down.
  """
  sizes = np.asarray(sizes)
  batches = -(-len(sizes) // batch_size)
  limit = int(np.clip(batches // batches_per_shape, 1, MAX_SHAPES))
  if not apart:
    lengths, targets = sizes.T
    tops = _least_padding(lengths, limit)
    return [(int(top), int(targets[lengths <= top].max())) for top in tops]
  grids = [_grid(sizes, groups, limit // groups) for groups in range(1, limit + 1)]

  def work(grid):
    padded = np.array(grid)[_first_that_holds(grid, sizes)]  # [E, 2]
    return padded.sum(axis=0) @ (1, _TARGET_WORK)

  return min(grids, key=work)


def _grid(sizes, groups, lengths_each):
  """Returns shapes (S, N), by N and in it by S, both with the least padding."""
  lengths, targets = sizes.T
  grid = []
  for top in _least_padding(targets, groups):
    below = [n for _, n in grid[-1:]]
    own = lengths[(targets <= top) & (targets > max(below, default=0))]
    tops = _least_padding(own, lengths_each)
    tops[-1] = lengths[targets <= top].max()  # what was left over moves up into it
    grid += [(int(length), int(top)) for length in tops]
  return grid


def _first_that_holds(split_shapes, sizes):
  """Returns the number of the first shape that holds each of the sizes, [E]."""
  holds = np.asarray(sizes)[:, None] <= np.asarray(split_shapes)  # [E, shapes, 2]
  return holds.all(axis=-1).argmax(axis=-1)


def smallest(split_shapes, sizes):
  """Returns the first of the shapes that holds all of the sizes."""
  return split_shapes[_first_that_holds(split_shapes, [np.max(sizes, axis=0)])[0]]


def _least_padding(lengths, limit):
  """Returns at most `limit` bucket tops that minimise the sum of padded lengths."""
  values, counts = np.unique(lengths, return_counts=True)
  below = np.concatenate([[0], np.cumsum(counts)])  # rows shorter than values[i]
  # cost[j]: padded tokens of the rows in values[:j]; a bucket values[i:j] pads its
  # rows to values[j - 1].
  cost = np.concatenate([[0], values * below[1:]]).astype(np.int64)
  starts = []
  for _ in range(limit - 1):
    best, start = cost.copy(), np.zeros(len(cost), int)
    for j in range(1, len(cost)):
      split = cost[:j] + values[j - 1] * (below[j] - below[:j])
      start[j] = split.argmin()
      best[j] = split[start[j]]
    starts.append(start)
    cost = best
  tops, j = [], len(values)
  for start in reversed(starts):
    tops.append(values[j - 1])
    j = start[j]
    if j == 0:
      return tops[::-1]
  return [values[j - 1], *tops[::-1]]


def plan(sizes, split_shapes, batch_size, rng=None):
  """Groups rows of like size into batches, every row in exactly one.

  What is left over of a bucket moves up into the next that has rows and holds it, so
  only the last batch of the longest rows may be short.

  Args:
    sizes: [E, 2], see `shapes`.
    split_shapes: from `shapes`.
    batch_size: rows a batch.
    rng: a numpy generator that shuffles rows and batches, or None for a fixed order.

  Returns:
    A list of (row indices, shape).
  """
  sizes = np.asarray(sizes)
  if rng is None:
    order = np.lexsort(sizes.T[::-1])
  else:
    order = rng.permutation(len(sizes))
  bucket = _first_that_holds(split_shapes, sizes[order])
  batches, left = [], np.zeros(0, int)
  for i, shape in enumerate(split_shapes):
    own = order[bucket == i]
    if not len(own):
      continue
    fits = (sizes[left] <= shape).all(axis=1)
    members = np.concatenate([left[fits], own])
    full = len(members) - len(members) % batch_size
    batches += _cut(members[:full], shape, batch_size)
    left = np.concatenate([left[~fits], members[full:]])
  if len(left):
    batches += _cut(left, smallest(split_shapes, sizes[left]), batch_size)
  if rng is not None:
    batches = [batches[i] for i in rng.permutation(len(batches))]
  return batches


def _cut(indices, shape, batch_size):
  starts = range(0, len(indices), batch_size)
  return [(indices[start : start + batch_size], shape) for start in starts]


def epoch_plan(sizes, split_shapes, batch_size, *, seed, epoch, apart):
  """Returns one epoch's `plan`, a function of (seed, epoch) alone.

  Before a suffix prompt, the rows of a batch are the same in every epoch, so that its
  context can be kept, and the batches alone come in another order.
  """
  rng = np.random.default_rng((seed, epoch))
  if not apart:
    return plan(sizes, split_shapes, batch_size, rng)
  batches = plan(sizes, split_shapes, batch_size, np.random.default_rng(seed))
  return [batches[i] for i in rng.permutation(len(batches))]


def bucket_sizes(lengths, apart):
  """Returns the sizes by which rows are grouped, [E, 2].

  A prompt in front runs over source and target together: (T, N). After the source, it
  runs over the target alone, and the source is padded apart: (S, N).

  Args:
    lengths: the tokens of each row's source and target, [E, 2].
    apart: whether source and target are padded apart.
  """
  sources, targets = lengths.T
  return np.stack([sources if apart else sources + targets, targets], axis=1)
