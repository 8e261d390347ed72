"""Files of rows, format by format: row by row, each with its place in the file."""

import csv
import gzip
import io
import json
import pathlib
import re
import reprlib
import sys

import pyarrow.parquet

from jaxprompt import errors

_LARGEST_CELL = 2**31 - 1  # characters; csv's own limit is 131072
_LINE_END = re.compile('[\r\n]')
# Remedies of a row with too many or too few cells.
_QUOTES = 'a text that holds a comma, a quote or a line break wants quotes around it'
_NO_BREAKS = 'no text may hold a tab or a line break: write such rows as CSV or JSONL'


def suffix(file):
  """Returns what a file's name ends with: '.csv', '.csv.gz'."""
  suffixes = pathlib.Path(file).suffixes
  return ''.join(suffixes[-2:] if suffixes[-1:] == ['.gz'] else suffixes[-1:])


def read(file):
  """Goes through the rows of a file; its suffix has to be one of `SUFFIXES`.

  Args:
    file: a `pathlib.Path`.

  Yields:
    Where in the file the row is, and the row, or the `errors.RowError` of one that is
    none.

  Raises:
    UserError: names the file if it cannot be read as a whole.
  """
  yield from _READERS[suffix(file)](file)


def read_standard_input():
  """Goes through the rows of JSONL on standard input, as `read`."""
  if sys.stdin is None:
    raise errors.UserError('standard input is closed; expected rows as JSONL there')
  if isinstance(sys.stdin, io.TextIOWrapper):  # rows are UTF-8, whatever the locale is
    sys.stdin.reconfigure(encoding='utf-8', errors='strict')
  yield from _parsed(_lines(sys.stdin, 'standard input', 'expected text in UTF-8'))


def _text_lines(file):
  """Yields the lines of a text file, of a compressed one if its name says so."""
  compressed = file.suffix == '.gz'
  expected = f'expected text in UTF-8{", compressed by gzip" * compressed}'
  with errors.reading(file, 'expected a file of yours'):
    opened = (gzip.open if compressed else open)(
      file, 'rt', encoding='utf-8', newline=''
    )
  with opened as f:
    yield from _lines(f, file, expected)


def _lines(lines, name, expected):
  """Yields the lines, without the mark that the first may begin with."""
  lines = iter(lines)
  first = True
  while True:
    with errors.reading(name, expected):
      line = next(lines, None)
    if line is None:
      return
    yield line.removeprefix('\ufeff') if first else line
    first = False


def _read_jsonl(file):
  yield from _parsed(_text_lines(file))


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


def _check_header(header, file):
  names = {name for name in header if name.strip()}
  if not header or len(names) < len(header):
    raise errors.UserError(
      f'{file} has the header {",".join(header)!r:.200}; expected column names, all '
      'different and none empty'
    )


def _read_csv(file):
  csv.field_size_limit(_LARGEST_CELL)
  taken = []  # the lines of the row that is being read
  reader = csv.reader(_noted(_text_lines(file), taken), strict=True)
  with errors.reading(file, 'expected a header of column names'):
    header = next(filter(None, reader), [])  # after blank lines
  _check_header(header, file)
  while True:
    taken.clear()
    try:
      cells = next(reader, None)
    except csv.Error as e:
      place = f'line {reader.line_num - len(taken) + 1}'
      if len(taken) > 1 or taken[0].count('"') % 2:
        raise errors.UserError(
          f'{file}: the row that begins in {place} is not CSV: {e}; a quote is open, '
          'so that nothing says where the next row begins: close it, or double it if '
          'it is text'
        ) from e
      yield place, errors.RowError(f'is not CSV: {e}; look at its quotes')
      continue
    if cells is None:
      return
    if cells:  # not a blank line
      place = f'line {reader.line_num - len(taken) + 1}'
      yield place, _row(header, cells, _QUOTES)


def _noted(lines, taken):
  for line in lines:
    taken.append(line)
    yield line


def _row(header, cells, remedy):
  if len(cells) == len(header):
    return dict(zip(header, cells, strict=True))
  return errors.RowError(
    f'has {len(cells)} cells, the header {len(header)}; {remedy}',
    {'id': cells[0]} if header[0] == 'id' else None,
  )


def _read_tsv(file):
  """Goes through the rows of a table whose cells are separated by tabs, one a line.

  There are two customs. By the one, quotes are text (text/tab-separated-values, as IANA
  has it); by the other they stand around a cell, as in CSV. A line whose quotes make
  cells is read by the second, any other by the first.
  """
  csv.field_size_limit(_LARGEST_CELL)
  lines = enumerate((line.rstrip('\r\n') for line in _text_lines(file)), 1)
  rows = ((number, _tsv_cells(line)) for number, line in lines if line)
  _, header = next(rows, (0, []))
  _check_header(header, file)
  for number, cells in rows:
    yield f'line {number}', _row(header, cells, _NO_BREAKS)


def _tsv_cells(line):
  if '"' in line:
    try:
      return next(csv.reader([line], delimiter='\t', strict=True))
    except csv.Error:
      pass
  return line.split('\t')


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


def _read_json(file):
  """Goes through a list of rows, lines of rows, or SQuAD's own nested file."""
  text = ''.join(_text_lines(file))
  if _holds_lines(text):
    yield from _parsed(io.StringIO(text, newline=''))
    return
  with errors.reading(file, 'expected JSON in UTF-8'):
    content = json.loads(text)
  is_row = isinstance(content, dict) and 'data' not in content
  if is_row and not _LINE_END.search(text.strip()):  # one line of rows
    content = [content]
  rows = content.get('data') if isinstance(content, dict) else content
  if not isinstance(rows, list):
    raise errors.UserError(
      f'{file} holds neither a list of objects nor one under "data"; expected either'
    )
  if rows and isinstance(rows[0], dict) and 'paragraphs' in rows[0]:
    rows = _squad_rows(rows, file)
  for number, row in enumerate(rows):
    yield f'row {number}', _object(row)


def _holds_lines(text):
  """Returns whether a .json file holds one object a line."""
  first, *others = _LINE_END.split(text.strip(), maxsplit=1)
  return first.startswith('{') and first.rstrip().endswith('}') and bool(others)


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
    row = {'id': qa.get('id'), 'title': title, 'context': context}
    row['question'] = qa['question']
    if 'answers' in qa:  # not those of rows to predict
      row['answers'] = {'text': [answer['text'] for answer in qa['answers'] or ()]}
    return row
  except (KeyError, TypeError, AttributeError) as e:
    return errors.RowError(f"is no question in SQuAD's form: {e!r}")


_TEXTS = {
  '.jsonl': _read_jsonl,
  '.json': _read_json,
  '.csv': _read_csv,
  '.tsv': _read_tsv,
}
_READERS = {
  **_TEXTS,
  **{f'{name}.gz': reader for name, reader in _TEXTS.items()},
  '.parquet': _read_parquet,
}
SUFFIXES = tuple(_READERS)
