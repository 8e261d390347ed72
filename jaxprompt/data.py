"""From rows to batches: tokens, cuts, length buckets, and an order for every epoch."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from jaxprompt import batch as batch_lib
from jaxprompt import errors
from jaxprompt import tasks

MAX_SHAPES = 8  # compiled programs a run pays for; padding falls little beyond
# A token before a suffix prompt is run forward once and then takes memory; one after it
# is run forward and back in every epoch, which counts as so many of the first.
_TARGET_WORK = 3
_BATCHES_PER_SHAPE = 4  # a program must serve about this many batches to be worth it


@dataclasses.dataclass(frozen=True)
class Row:
  """One example as it is tokenised: the strings, and the ids they became."""

  id: str
  source: str
  target: str
  references: tuple[str, ...]
  source_ids: np.ndarray  # [.] int32: the source, then the newline
  target_ids: np.ndarray  # [.] int32: one space and the target, then the end of text

  @property
  def length(self):
    return len(self.source_ids) + len(self.target_ids)


@dataclasses.dataclass(frozen=True)
class Rows:
  """A split's rows, and how many were cut, being too long, or left out."""

  rows: Sequence[Row]
  sources_cut: int
  targets_cut: int
  skipped: int

  @property
  def fingerprint(self):
    """A hash of the rows' texts, wherever they lie."""
    digest = hashlib.sha256()
    for row in self.rows:
      digest.update(repr((row.id, row.source, row.target, row.references)).encode())
    return digest.hexdigest()


def encode(tokenizer, text):
  """Returns the token ids of a text alone, and where in it each token ends.

  No token is added, and text that spells a special token stays text.
  """
  encoding = tokenizer(
    text,
    add_special_tokens=False,
    split_special_tokens=True,
    return_offsets_mapping=True,
    verbose=False,
  )
  return encoding['input_ids'], [end for _, end in encoding['offset_mapping']]


def check_newline(tokenizer, path):
  """Refuses a tokenizer to which the template's newline is nothing."""
  if not encode(tokenizer, '\n')[0]:
    raise errors.UserError(
      f'model.path {path!r} has a tokenizer that makes no token of a newline, which '
      'stands between source and target; use another model'
    )


def load(
  tokenizer, task, split, *, size, max_source_tokens, max_target_tokens, skip=False
):
  """Tokenises the first rows of a split.

  Args:
    tokenizer: a fast tokenizer of transformers with an end-of-text token.
    task: a `tasks.Task`.
    split: a `sources.Split`.
    size: the most rows to take, 0 for all.
    max_source_tokens, max_target_tokens: longer ones are cut.
    skip: leave out rows that cannot be used, and count them.

  Returns:
    `Rows`.

  Raises:
    UserError: names the row that cannot be used, the first of all if none can.
  """
  newline, _ = encode(tokenizer, '\n')
  rows, problems, sources_cut, targets_cut = [], [], 0, 0
  available = len(split.rows)
  for i in range(min(size or available, available)):
    try:
      row = split.rows[i]
      if isinstance(row, errors.RowError):
        raise row
      example = tasks.parse(task, row, i)
      head, source_ids = fit(tokenizer, example.head, example.tail, max_source_tokens)
      target, target_ids = fit(tokenizer, example.target, '', max_target_tokens, ' ')
    except errors.RowError as e:
      problems.append(f'{split.where(i)}: {e}')
      if skip:
        continue
      raise errors.UserError(
        f'{problems[0]}; correct it, or set data.bad_rows=skip'
      ) from e
    sources_cut += head != example.head
    targets_cut += target != example.target
    rows.append(
      Row(
        id=example.id,
        source=head + example.tail,
        target=target,
        references=example.references,
        source_ids=np.asarray([*source_ids, *newline], np.int32),
        target_ids=np.asarray([*target_ids, tokenizer.eos_token_id], np.int32),
      )
    )
  if not rows:
    raise errors.UserError(f'{problems[0]}; no row of this split can be used')
  return Rows(rows, sources_cut, targets_cut, len(problems))


def fit(tokenizer, text, tail, limit, lead=''):
  """Cuts `text` at its end until lead + text + tail is at most `limit` tokens.

  The cut is made in the string, between tokens and never inside a character, so that
  the ids are those of a string that can be read and tokenised again.

  Returns:
    The text, cut or not, and the ids of lead + text + tail.

  Raises:
    RowError: if the tail, or a character alone, is longer, or the text makes no token.
  """
  ids, _ = encode(tokenizer, lead + text + tail)
  if not ids:
    raise errors.RowError(f'{(text + tail)!r:.60} is no token to the tokenizer')
  if len(ids) <= limit:
    return text, ids
  over = len(ids) - limit
  _, ends = encode(tokenizer, lead + text)
  for keep in range(len(ends) - over, -1, -1):
    cut = (lead + text)[len(lead) : ends[keep - 1]].rstrip() if keep else ''
    ids, _ = encode(tokenizer, lead + cut + tail)
    if len(ids) <= limit and cut + tail:
      return cut, ids
  least = tail or text[0]  # no character is cut, nor all of them
  ids, _ = encode(tokenizer, lead + least)
  raise errors.RowError(
    f'{least.strip()!r:.60} alone is {len(ids)} tokens and is never cut; raise '
    f'data.max_{"target" if lead else "source"}_tokens ({limit}) to at least that'
  )


def shapes(sizes, batch_size, position='prefix'):
  """Chooses the padded shapes that a split's batches come in, at most `MAX_SHAPES`.

  They have the least padding that so many can have, fewer when there are few batches
  to share them. Where source and target are padded apart, there are groups of shapes by
  the target's length, with as many lengths of the source in each.

  Args:
    sizes: [E, 2], the rows' own (T, N), or (S, N) before a suffix prompt.
    batch_size: rows a batch.
    position: 'prefix' or 'suffix', where the prompt stands to the source.

  Returns:
    Shapes like the sizes: a row belongs to the first that holds it, and the last one
    holds all. The N of a shape (T, N) holds the targets of all rows up to T tokens,
    since a row may be moved up, never down.
  """
  sizes = np.asarray(sizes)
  batches = -(-len(sizes) // batch_size)
  limit = int(np.clip(batches // _BATCHES_PER_SHAPE, 1, MAX_SHAPES))
  if position == 'prefix':
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


def epoch_plan(sizes, split_shapes, batch_size, *, seed, epoch, position):
  """Returns one epoch's `plan`, a function of (seed, epoch) alone.

  Before a suffix prompt, the rows of a batch are the same in every epoch, so that its
  context can be kept, and the batches alone come in another order.
  """
  rng = np.random.default_rng((seed, epoch))
  if position == 'prefix':
    return plan(sizes, split_shapes, batch_size, rng)
  batches = plan(sizes, split_shapes, batch_size, np.random.default_rng(seed))
  return [batches[i] for i in rng.permutation(len(batches))]


def bucket_sizes(rows, position):
  """Returns the sizes by which rows are grouped, [E, 2].

  A prompt in front runs over source and target together: (T, N). After the source, it
  runs over the target alone, and the source is padded apart: (S, N).
  """
  suffix = position == 'suffix'
  return np.array(
    [
      (len(row.source_ids) if suffix else row.length, len(row.target_ids))
      for row in rows
    ]
  )


def padding(rows, position, batch_size):
  """Returns the share of the tokens that are padding when rows go in batches.

  It is the same in any order: only full batches leave a bucket.
  """
  sizes = bucket_sizes(rows, position)
  batches = plan(sizes, shapes(sizes, batch_size, position), batch_size)
  apart = position == 'suffix'
  padded = batch_size * sum(
    length + apart * targets for _, (length, targets) in batches
  )
  return 1 - sum(row.length for row in rows) / padded


def pad(sequences, length, batch_size, pad_id):
  """Pads on the right to [B, length]; returns ids int32 and the mask of real ones."""
  ids = np.full((batch_size, length), pad_id, np.int32)
  mask = np.zeros((batch_size, length), bool)
  for i, sequence in enumerate(sequences):
    ids[i, : len(sequence)] = sequence
    mask[i, : len(sequence)] = True
  return ids, mask


def collate(rows, shape, batch_size, pad_id, position):
  """Returns the `Batch` of at most `batch_size` rows; the missing ones count nothing.

  Args:
    rows: `Row`s that fit the shape.
    shape: (T, N), or (S, N) if the prompt is a suffix of the source.
    batch_size: B.
    pad_id: any id of the vocabulary; masks, not ids, say what is padding.
    position: 'prefix' or 'suffix'.
  """
  length, targets = shape
  if position == 'suffix':
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
