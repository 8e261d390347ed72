"""Rows from where they live: a directory of local files, or a data set of the hub."""

import csv
import itertools
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
        rows.append(_parse_json(line, f'{file} line {number}'))
        lines.append(number)
  for row, number in zip(rows, lines, strict=True):
    if not isinstance(row, dict):
      raise errors.UserError(f'{file} line {number} is no JSON object: {row!r:.60}')
  return Split(rows, lambda i: f'{file} line {lines[i]}')


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
  csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
  with file.open(encoding='utf-8-sig', newline='') as f:
    rows = list(csv.DictReader(f))
  for i, column in itertools.product(range(len(rows)), _JSON_COLUMNS):
    if isinstance(rows[i].get(column), str):
      rows[i][column] = _parse_json(rows[i][column], f'{file} row {i}: {column}')
  return Split(rows, lambda i: f'{file} row {i}')


def _read_parquet(file):
  rows = pyarrow.parquet.read_table(file).to_pylist()
  return Split(rows, lambda i: f'{file} row {i}')


READERS = {
  '.jsonl': _read_jsonl,
  '.json': _read_json,
  '.csv': _read_csv,
  '.parquet': _read_parquet,
}
