"""Rows from where they live: a directory of local files, or a data set of the hub."""

import csv
import hashlib
import io
import itertools
import json
import os
import pathlib
import reprlib
import sys
from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow.parquet

from jaxprompt import errors
from jaxprompt import hub

SPLITS = ('train', 'validation', 'test')
_DIGESTED_AT_ONCE = 2**20  # bytes
_LARGEST_CELL = 2**31 - 1  # characters; csv's own limit is 131072


class Split(NamedTuple):
  """Rows, and what to call each of them in an error."""

  rows: Sequence[dict | errors.RowError]  # an error in place of a row that is none
  where: Callable[[int], str]


def read(path, subset=''):
  """Returns {split: `Split`} for train, validation and test.

  A source without a test split lends the second half of its validation split.

  Args:
    path: a directory that holds {train,validation,test}.{jsonl,json,csv,parquet}, or
      the id of a data set on the hub.
    subset: the hub data set's configuration; '' for its default.

  Raises:
    UserError: names what is missing or cannot be read.
  """
  folder = pathlib.Path(os.path.expanduser(path))
  if os.path.isdir(folder) or folder.is_absolute() or path.startswith(('.', '~')):
    splits = _read_directory(folder)
  else:
    splits = _read_hub(path, subset)
  for split in ('train', 'validation'):
    if split not in splits:
      raise errors.UserError(
        f'data.path {path!r} has no {split} split; expected one that is named so '
        f'(in a local directory: {split}.jsonl, .json, .csv or .parquet)'
      )
  if 'test' not in splits:
    splits['validation'], splits['test'] = _halves(splits['validation'])
  for split in SPLITS:
    if not len(splits[split].rows):
      raise errors.UserError(
        f'data.path {path!r} has no rows for the {split} split; expected at least one'
      )
  return splits


def _halves(split):
  half = (len(split.rows) + 1) // 2
  rows = [split.rows[i] for i in range(len(split.rows))]
  return Split(rows[:half], split.where), Split(
    rows[half:], lambda i: split.where(half + i)
  )


def _read_hub(path, subset):
  dataset = hub.load_dataset(path, subset)
  return {
    split: Split(dataset[split], lambda i, split=split: f'{path} {split} row {i}')
    for split in SPLITS
    if split in dataset
  }


def _read_directory(folder):
  if not os.path.isdir(folder):
    raise errors.UserError(
      f'data.path {str(folder)!r} is not a directory; expected one that holds '
      'train, validation and test files'
    )
  with errors.reading(folder, 'expected a directory of yours'):
    held = os.listdir(folder)
  splits = {}
  for split in SPLITS:
    files = [folder / (split + s) for s in SUFFIXES if split + s in held]
    if len(files) > 1:
      names = ' and '.join(file.name for file in files)
      raise errors.UserError(f'{folder} holds {names}; keep one file a split')
    if files:
      splits[split] = read_file(files[0])
  return splits


def read_file(file):
  """Returns the `Split` of one local file, read by its suffix.

  Raises:
    UserError: names the file if it cannot be read as a whole.
  """
  if file.suffix == '.json' and not _holds_lines(file):
    return _read_json(file)
  places, rows = [], []
  for place, row in _READERS['.jsonl' if file.suffix == '.json' else file.suffix](file):
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
  if path != '-' and file.suffix not in _READERS:
    raise errors.UserError(
      f'--input {path!r} is of no kind that can be read row by row; expected '
      f'{", ".join(_READERS)}, or - for JSONL on standard input'
    )
  if path != '-' and not os.path.exists(file):
    raise errors.UserError(f'--input {path!r} is no file; expected one of rows')


def stream(path):
  """Goes through the rows of a file, or of standard input, one by one.

  Args:
    path: a .jsonl, .csv or .parquet file, or '-' for JSONL on standard input.

  Yields:
    The row, or an `errors.RowError` that says where it is and what is wrong with it.

  Raises:
    UserError: if the file cannot be read as a whole.
  """
  check_input(path)
  file = pathlib.Path(os.path.expanduser(path))
  if path == '-':
    name, rows = 'standard input', _parsed(_lines(_standard_input(), 'standard input'))
  else:
    name, rows = file, _READERS[file.suffix](file)
  for place, row in rows:
    if isinstance(row, errors.RowError):
      row = errors.RowError(f'{name} {place} {row}', row.row)
    yield row


def _standard_input():
  if sys.stdin is None:
    raise errors.UserError('standard input is closed; expected rows as JSONL there')
  if isinstance(sys.stdin, io.TextIOWrapper):  # rows are UTF-8, whatever the locale is
    sys.stdin.reconfigure(encoding='utf-8', errors='strict')
  return sys.stdin


def _lines(lines, name):
  """Yields the lines of a text file, without the mark that it may begin with."""
  lines = iter(lines)
  first = True
  while True:
    with errors.reading(name, 'expected text in UTF-8'):
      line = next(lines, None)
    if line is None:
      return
    yield line.removeprefix('\ufeff') if first else line
    first = False


def _open(file):
  with errors.reading(file, 'expected a file of yours'):
    return file.open(encoding='utf-8', newline='')


def _read_jsonl(file):
  with _open(file) as f:
    yield from _parsed(_lines(f, file))


def _parsed(lines):
  for number, line in enumerate(lines, 1):
    if line.strip():
      yield f'line {number}', _parse_line(line)


def _parse_line(line):
  """Returns the row of a line of JSON, or the `RowError` of one that is none."""
  try:
    row = json.loads(line)
  except (ValueError, RecursionError) as e:  # a number of 5,000 digits is one, too
    return errors.RowError(f'is not JSON: {e}')
  return _object(row)


def _object(value):
  """Returns the value if it is a row, or the error of one, else a `RowError`."""
  if isinstance(value, dict | errors.RowError):
    return value
  return errors.RowError(f'is no object: {reprlib.repr(value)}')


def _read_csv(file):
  csv.field_size_limit(_LARGEST_CELL)
  with _open(file) as f:
    taken = []  # the lines of the row that is being read
    reader = csv.reader(_noted(_lines(f, file), taken), strict=True)
    with errors.reading(file, 'expected a header of column names'):
      header = next(filter(None, reader), [])  # after blank lines
    names = {name for name in header if name.strip()}
    if not header or len(names) < len(header):
      raise errors.UserError(
        f'{file} has the header {",".join(header)!r:.200}; expected column names, all '
        'different and none empty'
      )
    for number in itertools.count():
      taken.clear()
      try:
        cells = next(reader, None)
      except csv.Error as e:
        if len(taken) > 1 or taken[0].count('"') % 2:
          raise errors.UserError(
            f'{file} row {number}, which begins in line '
            f'{reader.line_num - len(taken) + 1}, is not CSV: {e}; a quote is open, so '
            'that nothing says where the next row begins: close it, or double it if it '
            'is text'
          ) from e
        yield f'row {number}', errors.RowError(f'is not CSV: {e}; look at its quotes')
        continue
      if cells is None:
        return
      if cells:  # not a blank line
        yield f'row {number}', _row(header, cells)


def _noted(lines, taken):
  for line in lines:
    taken.append(line)
    yield line


def _row(header, cells):
  if len(cells) == len(header):
    return dict(zip(header, cells, strict=True))
  return errors.RowError(
    f'has {len(cells)} cells, the header {len(header)}; a text that holds a comma, a '
    'quote or a line break wants quotes around it',
    {'id': cells[0]} if header[0] == 'id' else None,
  )


def _read_parquet(file):
  with errors.reading(file, 'expected a Parquet file'):
    opened = pyarrow.parquet.ParquetFile(file)
  parts, number = opened.iter_batches(batch_size=256), 0
  while True:
    with errors.reading(file, 'expected a Parquet file'):
      part = next(parts, None)
      rows = None if part is None else part.to_pylist()
    if rows is None:
      return
    for row in rows:
      yield f'row {number}', row
      number += 1


_READERS = {'.jsonl': _read_jsonl, '.csv': _read_csv, '.parquet': _read_parquet}
SUFFIXES = (*_READERS, '.json')


def _holds_lines(file):
  """Returns whether a .json file holds one object a line."""
  with errors.reading(file, 'expected text in UTF-8'):
    text = file.read_text(encoding='utf-8-sig')
  first = text.lstrip().partition('\n')[0].rstrip()
  return first.startswith('{') and first.endswith('}') and '\n' in text.strip()


def _read_json(file):
  """Reads a list of rows, or SQuAD's own nested file."""
  with errors.reading(file, 'expected JSON in UTF-8'):
    content = json.loads(file.read_text(encoding='utf-8-sig'))
  rows = content.get('data') if isinstance(content, dict) else content
  if not isinstance(rows, list):
    raise errors.UserError(
      f'{file} holds neither a list of objects nor one under "data"; expected either'
    )
  if rows and isinstance(rows[0], dict) and 'paragraphs' in rows[0]:
    rows = list(_squad_rows(rows, file))
  return Split(list(map(_object, rows)), lambda i: f'{file} row {i}')


def _squad_rows(articles, file):
  """Flattens SQuAD's nesting of articles, paragraphs, questions and answers."""
  try:
    for article in articles:
      for paragraph in article['paragraphs']:
        for qa in paragraph['qas']:
          yield _squad_row(article.get('title', ''), paragraph['context'], qa)
  except (KeyError, TypeError, AttributeError) as e:
    raise errors.UserError(f"{file} is not in SQuAD's nested form: {e!r}") from e


def _squad_row(title, context, qa):
  """Returns the row of one question; null `answers` are none, as of no answer."""
  try:
    return {
      'id': qa.get('id'),
      'title': title,
      'context': context,
      'question': qa['question'],
      'answers': {'text': [answer['text'] for answer in qa['answers'] or ()]},
    }
  except (KeyError, TypeError, AttributeError) as e:
    return errors.RowError(f"is no question in SQuAD's form: {e!r}")
