"""Rows from where they live, by split: local files, or a data set of the hub."""

import hashlib
import os
import pathlib
import re
from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxprompt import errors
from jaxprompt import hub
from jaxprompt.data import formats

SPLITS = ('train', 'validation', 'test')
_ONE_FILE_PARTS = 10  # of which validation and test get one each
_DIGESTED_AT_ONCE = 2**20  # bytes


class Split(NamedTuple):
  """Rows, and what to call each of them in an error."""

  rows: Sequence[dict | errors.RowError]  # an error in place of a row that is none
  where: Callable[[int], str]
  number: Callable[[int], int] = int  # of the row in its source, from 0


IN_MEMORY = 'rows in memory'  # as the `data.path` of a run


def read(path, subset='', *, seed=0):
  """Returns {split: `Split`} for train, validation and test.

  A source without a test split lends the second half of its validation split.

  Args:
    path: a directory that holds {train,validation,test} in one of the formats, one
      file of rows, of which a tenth each is drawn for validation and test, or the id of
      a data set on the hub.
    subset: the hub data set's configuration; '' for its default.
    seed: of the draw.

  Raises:
    UserError: names what is missing or cannot be read.
  """
  place = pathlib.Path(os.path.expanduser(path))
  if os.path.isfile(place):
    splits = _read_one_file(place, seed)
  elif os.path.isdir(place) or place.is_absolute() or path.startswith(('.', '~')):
    splits = _read_directory(place)
  elif path == IN_MEMORY:
    raise errors.UserError(
      'the rows of this run were in memory, and are not kept; use jp.compare, and '
      'prompt.export with its rows, in Python'
    )
  else:
    splits = _read_hub(path, subset)
  return _complete(splits, path)


def given(rows):
  """Returns what `read` does of rows in memory.

  Args:
    rows: {split: a sequence of dicts}; raises as `read` for what is missing.
  """
  for name, own in rows.items():
    if name not in SPLITS and str(name).lower() in SPLITS:
      raise errors.UserError(f'{name!r} is no split; expected {", ".join(SPLITS)}')
    try:
      _ = len(own) and own[0]
    except (KeyError, TypeError) as e:  # as of a generator
      raise errors.UserError(
        f'the rows of {name!r} are a {type(own).__name__}; expected a list of dicts by '
        "columns (of a DataFrame, .to_dict('records'))"
      ) from e
  splits = {
    name: Split(own, lambda i, name=name: f'{name} row {i}')
    for name, own in rows.items()
    if name in SPLITS
  }
  return _complete(splits, 'of rows in memory')


def _complete(splits, path):
  """Returns all three of a data set's splits; raises as `read`."""
  for split in ('train', 'validation'):
    if split not in splits:
      raise errors.UserError(
        f'data.path {path!r} has no {split} split; expected one that is named so '
        f'(in a local directory: {split}.jsonl, .json, .csv, .tsv or .parquet)'
      )
  if 'test' not in splits:
    splits['validation'], splits['test'] = _halves(splits['validation'])
  for split in SPLITS:
    if not len(splits[split].rows):
      raise errors.UserError(
        f'data.path {path!r} has no rows for the {split} split; expected at least one'
      )
  return splits


def sample(split, size, seed):
  """Returns random rows of a split, in the split's order.

  Args:
    split: `Split`.
    size: the most rows to draw, 0 for all.
    seed: of the draw.
  """
  available = len(split.rows)
  if not 0 < size < available:
    return split
  drawn = np.random.default_rng(seed).choice(available, size, replace=False)
  return _take(split, np.sort(drawn).tolist())


def _take(split, indices):
  """Returns the rows of the indices alone."""
  return Split(
    [split.rows[i] for i in indices],
    lambda i: split.where(indices[i]),
    lambda i: split.number(indices[i]),
  )


def _halves(split):
  size = len(split.rows)
  half = (size + 1) // 2
  first, second = _take(split, range(half)), _take(split, range(half, size))
  return first, second._replace(number=int)  # a split of its own


def _read_hub(path, subset):
  dataset = hub.load_dataset(path, subset)
  return {
    split: Split(dataset[split], lambda i, split=split: f'{path} {split} row {i}')
    for split in SPLITS
    if split in dataset
  }


def _read_one_file(file, seed):
  if formats.suffix(file) not in formats.SUFFIXES:
    raise errors.UserError(
      f'data.path {str(file)!r} is a file of no kind that can be read; expected '
      f'{", ".join(formats.SUFFIXES)}, or a directory'
    )
  whole = read_file(file)
  size = len(whole.rows)
  if size < len(SPLITS):
    raise errors.UserError(
      f'data.path {str(file)!r} has too few rows, {size}; expected {len(SPLITS)} or '
      'more, which are split into train, validation and test'
    )
  order = np.random.default_rng(seed).permutation(size)
  held = max(1, size // _ONE_FILE_PARTS)
  parts = order[2 * held :], order[:held], order[held : 2 * held]
  return {
    split: _take(whole, np.sort(part).tolist())
    for split, part in zip(SPLITS, parts, strict=True)
  }


def _read_directory(folder):
  if not os.path.isdir(folder):
    raise errors.UserError(
      f'data.path {str(folder)!r} is neither a directory nor a file; expected a '
      'directory that holds train, validation and test files, or one file of rows'
    )
  with errors.reading(folder, 'expected a directory of yours'):
    held = os.listdir(folder)
  splits = {}
  for split in SPLITS:
    files = [folder / (split + s) for s in formats.SUFFIXES if split + s in held]
    if len(files) > 1:
      names = ' and '.join(file.name for file in files)
      raise errors.UserError(f'{folder} holds {names}; keep one file a split')
    if files:
      splits[split] = read_file(files[0])
    # Else a test split that is not read would be drawn from validation.
    elif alike := [x for x in held if re.split(r'[-._]', x.lower())[0] == split]:
      raise errors.UserError(
        f'{folder} holds {alike[0]}, which is not read; expected {split} and one of '
        f'{", ".join(formats.SUFFIXES)}'
      )
  return splits


def read_file(file):
  """Returns the `Split` of one local file, read by its suffix.

  Raises:
    UserError: names the file if it cannot be read as a whole.
  """
  places, rows = [], []
  for place, row in formats.read(file):
    places.append(place)
    rows.append(row)
  return Split(rows, lambda i: f'{file} {places[i]}')


def digest(path):
  """Returns a hash of a file's content."""
  digest = hashlib.sha256()
  with errors.reading(path, 'expected a file of yours'), open(path, 'rb') as f:
    while part := f.read(_DIGESTED_AT_ONCE):
      digest.update(part)
  return digest.hexdigest()


def check_input(path):
  """Raises `UserError` if `stream` cannot read a file of this name."""
  file = pathlib.Path(os.path.expanduser(path))
  if path != '-' and formats.suffix(file) not in formats.SUFFIXES:
    raise errors.UserError(
      f'--input {path!r} is of no kind that can be read; expected '
      f'{", ".join(formats.SUFFIXES)}, or - for JSONL on standard input'
    )
  if path != '-' and not os.path.exists(file):
    raise errors.UserError(f'--input {path!r} is no file; expected one of rows')


def stream(path):
  """Goes through the rows of a file, or of standard input, one by one.

  All but .json is read in constant memory.

  Args:
    path: a file of rows, or '-' for JSONL on standard input.

  Yields:
    The row, or an `errors.RowError` that says where it is and what is wrong with it.

  Raises:
    UserError: if the file cannot be read as a whole.
  """
  check_input(path)
  file = pathlib.Path(os.path.expanduser(path))
  if path == '-':
    name, rows = 'standard input', formats.read_standard_input()
  else:
    name, rows = file, formats.read(file)
  for place, row in rows:
    if isinstance(row, errors.RowError):
      row = errors.RowError(f'{name} {place} {row}', row.row)
    yield row
