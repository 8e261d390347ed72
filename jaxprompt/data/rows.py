"""From a split's rows to tokens: what was cut, and what could not be used."""

import dataclasses
import functools
import hashlib
import reprlib
from collections.abc import Sequence

import numpy as np
import pyarrow
import pyarrow.compute

from jaxprompt import errors
from jaxprompt.data import tokens

_ROWS_AT_ONCE = 2**14
_TEXTS = pyarrow.list_(pyarrow.string())


@dataclasses.dataclass(frozen=True)
class Row:
  """One example of a `Table` as it is tokenised: the strings, and their ids."""

  columns: pyarrow.Table
  index: int

  def __repr__(self):
    return f'Row(id={self.id!r}, source={self.source!r}, target={self.target!r})'

  def _value(self, name):
    return self.columns.column(name)[self.index]

  @property
  def id(self):
    return self._value('id').as_py()

  @property
  def source(self):
    return self._value('source').as_py()

  @property
  def target(self):
    return self._value('target').as_py()

  @property
  def references(self):
    """All the gold targets."""
    found = self._value('references').as_py()
    return (self.target,) if found is None else tuple(found)

  @functools.cached_property
  def source_ids(self):
    """The source, then the newline, [.] int32."""
    return self._value('source_ids').values.to_numpy()

  @functools.cached_property
  def target_ids(self):
    """One space and the target, then the end of text, [.] int32."""
    return self._value('target_ids').values.to_numpy()

  @property
  def length(self):
    return len(self.source_ids) + len(self.target_ids)


class Table(Sequence):
  """A sequence of `Row`s that is held in columns: one array of all ids, not E of them.

  Where the references are the target alone, as they mostly are, they are null.
  """

  def __init__(self, columns):
    """Takes a `pyarrow.Table` that has a column for each property of `Row`."""
    self._columns = columns
    self._indices = range(len(columns))

  def __len__(self):
    return len(self._indices)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return Table(self._columns[index])
    return Row(self._columns, self._indices[index])

  def retokenised(self, source_ids, target_ids):
    """Returns the same rows with other ids."""
    columns = self._columns
    for name, ids in (('source_ids', source_ids), ('target_ids', target_ids)):
      place = columns.schema.get_field_index(name)
      columns = columns.set_column(place, name, tokens.id_lists(ids))
    return Table(columns)

  @functools.cached_property
  def lengths(self):
    """The tokens of each row's source and target, [E, 2]."""
    found = [
      pyarrow.compute.list_value_length(self._columns[name]).to_numpy()
      for name in ('source_ids', 'target_ids')
    ]
    return np.stack(found, axis=1).astype(int)


def table(source_ids, target_ids):
  """Returns the `Table` of E rows of which nothing but the ids is known."""
  blank = [''] * len(source_ids)
  return Table(
    pyarrow.table(
      {
        **dict.fromkeys(('id', 'source', 'target'), blank),
        'references': pyarrow.nulls(len(blank), _TEXTS),
        'source_ids': tokens.id_lists(source_ids),
        'target_ids': tokens.id_lists(target_ids),
      }
    )
  )


@dataclasses.dataclass(frozen=True)
class Rows:
  """A split's rows, and how many were cut, being too long, or left out."""

  rows: Table
  sources_cut: int
  targets_cut: int
  skipped: int
  fingerprint: str  # a hash of the rows' texts, wherever they lie


def load(
  template,
  task,
  split,
  *,
  size,
  max_source_tokens,
  max_target_tokens,
  skip=False,
  progress=iter,
):
  """Tokenises the first rows of a split.

  Args:
    template: `template.Template`.
    task: a `tasks.Task`.
    split: a `sources.Split`.
    size: the most rows to take, 0 for all.
    max_source_tokens, max_target_tokens: longer ones are cut; no label is.
    skip: leave out rows that cannot be used, and count them.
    progress: goes through the parts of the work, and may show how far it is.

  Returns:
    `Rows`.

  Raises:
    UserError: names the row that cannot be used, the first of all if none can.
  """
  count = min(size or len(split.rows), len(split.rows))
  tokenise = functools.partial(
    tokens.tokenise,
    template,
    max_source_tokens=max_source_tokens,
    max_target_tokens=None if task.labels else max_target_tokens,
  )
  parts, problems, digest = [], [], hashlib.sha256()
  for start in progress(range(0, count, _ROWS_AT_ONCE)):
    numbers = range(start, min(start + _ROWS_AT_ONCE, count))
    part, found = _part(task, split, numbers, tokenise)
    problems += [f'{split.where(i)}: {found[i]}' for i in sorted(found)]
    if problems and not skip:
      raise errors.UserError(f'{problems[0]}; correct it, or set data.bad_rows=skip')
    for texts in _texts(part):
      digest.update(repr(texts).encode())
    parts.append(part)
  columns = pyarrow.concat_tables(parts)
  if not len(columns):
    raise errors.UserError(f'{problems[0]}; no row of this split can be used')
  sources_cut, targets_cut = (
    pyarrow.compute.sum(columns[f'{text}_cut']).as_py() for text in ('source', 'target')
  )
  return Rows(
    Table(columns), sources_cut, targets_cut, len(problems), digest.hexdigest()
  )


def _part(task, split, numbers, tokenise):
  """Tokenises some rows of a split.

  Args:
    task, split: see `load`.
    numbers: of the rows in the split.
    tokenise: from examples to their table, see `tokens.tokenise`.

  Returns:
    The columns of a `Table` of those that can be used, and {number: what is wrong} of
    the others.
  """
  examples, problems = {}, {}
  for i in numbers:
    try:
      examples[i] = _parse(task, split, i)
    except errors.RowError as e:
      problems[i] = str(e)
  found = tokenise(list(examples.values()))
  refused = found['error'].to_pylist()
  problems |= {i: e for i, e in zip(examples, refused, strict=True) if e is not None}
  columns = {name: found[name] for name in found.column_names if name != 'error'}
  columns['id'] = pyarrow.array([x.id for x in examples.values()], pyarrow.string())
  columns['references'] = pyarrow.array(
    [
      None if x.references == (target,) else x.references
      for x, target in zip(examples.values(), found['target'].to_pylist(), strict=True)
    ],
    _TEXTS,
  )
  part = pyarrow.table(columns)
  return part.filter(found['error'].is_null()) if any(refused) else part, problems


def _texts(part):
  """Yields (id, source, target, references) of each row, as `Row` has them."""
  columns = (part[name] for name in ('id', 'source', 'target', 'references'))
  for *texts, target, references in zip(*(x.to_pylist() for x in columns), strict=True):
    yield *texts, target, (target,) if references is None else tuple(references)


def _parse(task, split, i):
  row = split.rows[i]
  if isinstance(row, errors.RowError):
    raise row
  if not isinstance(row, dict):
    raise errors.RowError(f'is {reprlib.repr(row)}, expected a dict by columns')
  return task.parse(row, split.number(i))
