"""Rows from where they live: a directory of local files, or a data set of the hub."""

import csv
import json
import pathlib
import sys
from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow
import pyarrow.parquet

from jaxprompt import errors
from jaxprompt import hub

SPLITS = ('train', 'validation', 'test')
_LARGEST_CELL = 2**31 - 1  # characters; csv's own limit is 131072
_JSON_COLUMNS = ('answers', 'translation')  # nested, so a CSV cell holds them as JSON


class Split(NamedTuple):
  """Rows, and what to call each of them in an error."""

  rows: Sequence[dict]
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
  folder = pathlib.Path(path).expanduser()
  if folder.is_dir() or folder.is_absolute() or path.startswith(('.', '~')):
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
  if not folder.is_dir():
    raise errors.UserError(
      f'data.path {str(folder)!r} is not a directory; expected one that holds '
      'train, validation and test files'
    )
  splits = {}
  for split in SPLITS:
    files = [folder / (split + suffix) for suffix in READERS]
    files = [file for file in files if file.exists()]
    if len(files) > 1:
      names = ' and '.join(file.name for file in files)
      raise errors.UserError(f'{folder} holds {names}; keep one file a split')
    if files:
      splits[split] = read_file(files[0])
  return splits


def read_file(file):
  """Returns the `Split` of one local file, read by its suffix.

  Raises:
    UserError: names the file, and the line where there is one.
  """
  try:
    return READERS[file.suffix](file)
  except UnicodeDecodeError as e:
    raise errors.UserError(f'{file} is not UTF-8: {e.reason} at byte {e.start}') from e
  except (OSError, csv.Error, pyarrow.ArrowException) as e:
    reason = str(e).splitlines()[0]
    raise errors.UserError(f'{file} cannot be read as {file.suffix}: {reason}') from e


def _read_jsonl(file):
  rows, lines = [], []
  with file.open(encoding='utf-8-sig') as f:
    for number, line in enumerate(f, 1):
      if line.strip():
        rows.append(_parse_line(line, f'{file} line {number}'))
        lines.append(number)
  return Split(rows, lambda i: f'{file} line {lines[i]}')


def _parse_line(line, where):
  row = _parse_json(line, where)
  if not isinstance(row, dict):
    raise errors.UserError(f'{where} is no JSON object: {row!r:.60}')
  return row


def _parse_json(text, where):
  try:
    return json.loads(text)
  except (json.JSONDecodeError, RecursionError) as e:
    raise errors.UserError(f'{where} is not JSON: {e}') from e


def _read_json(file):
  """Reads a list of rows, SQuAD's own nested file, or one object a line."""
  text = file.read_text(encoding='utf-8-sig')
  first = text.lstrip().partition('\n')[0].rstrip()
  if first.startswith('{') and first.endswith('}') and '\n' in text.strip():
    return _read_jsonl(file)
  content = _parse_json(text, str(file))
  rows = content.get('data') if isinstance(content, dict) else content
  if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
    raise errors.UserError(
      f'{file} holds neither a list of objects nor one under "data"; expected either'
    )
  if rows and 'paragraphs' in rows[0]:
    rows = list(_squad_rows(rows, file))
  return Split(rows, lambda i: f'{file} row {i}')


def _squad_rows(articles, file):
  """Flattens SQuAD v1.1's nesting of articles, paragraphs, questions and answers."""
  try:
    for article in articles:
      for paragraph in article['paragraphs']:
        for qa in paragraph['qas']:
          yield {
            'id': qa['id'],
            'title': article.get('title', ''),
            'context': paragraph['context'],
            'question': qa['question'],
            'answers': {'text': [answer['text'] for answer in qa['answers']]},
          }
  except (KeyError, TypeError) as e:
    raise errors.UserError(f"{file} is not in SQuAD's nested form: no {e}") from e


def _read_csv(file):
  csv.field_size_limit(_LARGEST_CELL)
  with file.open(encoding='utf-8-sig', newline='') as f:
    rows = [
      _parse_cells(row, f'{file} row {i}') for i, row in enumerate(csv.DictReader(f))
    ]
  return Split(rows, lambda i: f'{file} row {i}')


def _parse_cells(row, where):
  return {
    column: _parse_json(cell, f'{where}: {column}') if column in _JSON_COLUMNS else cell
    for column, cell in row.items()
  }


def _read_parquet(file):
  rows = pyarrow.parquet.read_table(file).to_pylist()
  return Split(rows, lambda i: f'{file} row {i}')


def stream(path):
  """Goes through the rows of a file, or of standard input, one by one.

  Args:
    path: a .jsonl, .csv or .parquet file, or '-' for JSONL on standard input.

  Yields:
    (the row, None), or (None, what is wrong with it).

  Raises:
    UserError: if the file cannot be read as a whole.
  """
  file = pathlib.Path(path).expanduser()
  if path != '-' and file.suffix not in _STREAMS:
    raise errors.UserError(
      f'--input {path!r} is of no kind that can be read row by row; expected '
      f'{", ".join(_STREAMS)}, or - for JSONL on standard input'
    )
  try:
    if path == '-':
      yield from _stream_lines(sys.stdin, 'standard input')
    else:
      yield from _STREAMS[file.suffix](file)
  except (OSError, UnicodeDecodeError, csv.Error, pyarrow.ArrowException) as e:
    reason = str(e).splitlines()[0]
    raise errors.UserError(f'--input {path!r} cannot be read: {reason}') from e


def _stream_jsonl(file):
  with file.open(encoding='utf-8-sig') as f:
    yield from _stream_lines(f, file)


def _stream_lines(lines, name):
  for number, line in enumerate(lines, 1):
    if line.strip():
      yield _attempt(_parse_line, line, f'{name} line {number}')


def _stream_csv(file):
  csv.field_size_limit(_LARGEST_CELL)
  with file.open(encoding='utf-8-sig', newline='') as f:
    for i, row in enumerate(csv.DictReader(f)):
      yield _attempt(_parse_cells, row, f'{file} row {i}')


def _stream_parquet(file):
  for part in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=256):
    for row in part.to_pylist():
      yield row, None


def _attempt(parse, text, where):
  try:
    return parse(text, where), None
  except errors.UserError as e:
    return None, str(e)


_STREAMS = {
  '.jsonl': _stream_jsonl,
  '.csv': _stream_csv,
  '.parquet': _stream_parquet,
}
READERS = {
  '.jsonl': _read_jsonl,
  '.json': _read_json,
  '.csv': _read_csv,
  '.parquet': _read_parquet,
}
