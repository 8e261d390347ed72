"""Templates over a row's columns: '{context}\\n{question}', '{answers.text[0]}'.

A place in a row is a column's name, then keys and numbers into what it holds. With a
colon, the texts of a list are joined: '{triples: | }'. Braces that are text are
doubled, and '\\n' and '\\t' may be written out, as a command line needs it.
"""

import ast
import json
import re
import reprlib
import warnings
from typing import NamedTuple

from jaxprompt import errors

_PIECES = re.compile(r'\{\{|\}\}|\{[^{}]*\}|[^{}]+|[{}]')
_KEYS = re.compile(r'\.([^.\[\]]+)|\[(\d+)\]')
# Characters; Python's parser takes some hundred bytes for each.
_LONGEST_LITERAL = 2**17
_ESCAPES = {'\\n': '\n', '\\t': '\t'}


class Place(NamedTuple):
  """Where in a row a text is."""

  path: str  # as it is written, without what joins
  keys: tuple[str | int, ...]
  joint: str | None = None  # what joins the texts of a list; None if it is one text


def unescaped(text):
  """Returns a text with characters for the escapes that a shell passes on."""
  for written, meant in _ESCAPES.items():
    text = text.replace(written, meant)
  return text


def parse(template, name):
  """Returns a template's parts: texts and `Place`s, in order.

  Args:
    template: a text.
    name: what the user calls it, for an error.

  Raises:
    UserError: if it is no template.
  """
  template = unescaped(template)
  parts = []
  for piece in _PIECES.findall(template):
    if piece in ('{', '}'):
      raise errors.UserError(
        f'{name} is {template!r:.80}, with a {piece!r} alone; expected places such as '
        f"'{{text}}', and {piece * 2!r} where a brace is meant"
      )
    if piece.startswith('{') and piece != '{{':
      path, colon, joint = piece[1:-1].partition(':')
      parts.append(place(path, name, joint if colon else None))
      continue
    literal = piece[:1] if piece in ('{{', '}}') else piece
    if parts and isinstance(parts[-1], str):
      parts[-1] += literal
    else:
      parts.append(literal)
  return tuple(parts)


def place(path, name, joint=None):
  """Returns the `Place` of a path such as 'answers.text[0]'; raises as `parse`."""
  column = re.match(r'[^.\[\]]+', path)
  rest = path[column.end() :] if column else ''
  if not column or _KEYS.sub('', rest):
    raise errors.UserError(
      f"{name} names the place {path!r:.60}; expected a column such as 'text', with "
      "keys and numbers into it as in 'answers.text[0]'"
    )
  keys = [key or int(number) for key, number in _KEYS.findall(rest)]
  return Place(path, (column[0], *keys), joint)


def text(row, where):
  """Returns the text at a `Place` of a row, stripped at its ends.

  Raises:
    RowError: says what is there instead.
  """
  found = value(row, where)
  if where.joint is None:
    return _text(row, where, found)
  if not isinstance(found, list | tuple):
    raise _wrong(
      row, f'{where.path} is {reprlib.repr(found)}, expected a list of texts'
    )
  return where.joint.join(_members(row, where, found))


def texts(row, where):
  """Returns all texts of a list, or the one text, at a `Place`; raises as `text`.

  A text that is a list of texts, as a CSV cell has it, is that list.
  """
  found = value(row, where)
  if isinstance(found, str):
    listed = _listed(found)
    found = [found] if listed is None else listed
  found = found if isinstance(found, list | tuple) else [found]
  if not found:
    raise _wrong(row, f'{where.path} is an empty list, expected texts')
  return _members(row, where, found)


def _members(row, where, found):
  """Returns the texts of a list, of which none may be blank."""
  try:
    return [_text(row, where, each) for each in found]
  except EmptyError as e:  # it has others, so it is not empty
    raise errors.RowError(str(e)) from e


def _listed(cell):
  """Returns the texts of the list that a cell's text stands for, or None."""
  try:
    found = cell_value(cell) if cell.lstrip()[:1] == '[' else None
  except errors.RowError:  # a text that begins with a bracket
    return None
  is_list = isinstance(found, list) and all(isinstance(x, str) for x in found)
  return found if is_list else None


def value(row, where):
  """Returns what is at a `Place` of a row; raises `RowError` if there is no such place.

  A text where a list or an object is needed holds it, as a CSV cell does.
  """
  column, *keys = where.keys
  if where.path in row:  # a column that has the dots in its own name
    column, keys = where.path, []
  if column not in row:
    raise errors.RowError(
      f'column {column!r} is missing; found {_columns(row)}: example.source, '
      'example.target and example.references say which columns are read'
    )
  found, path = row[column], column
  for key in keys:
    found = _parsed(found, path)
    if isinstance(key, int):
      if not isinstance(found, list | tuple):
        raise _wrong(row, f'{path} is {reprlib.repr(found)}, expected a list')
      if key >= len(found):
        raise EmptyError(f'{path} has {len(found)} texts, so there is no [{key}]')
    elif not isinstance(found, dict) or key not in found:
      raise _wrong(
        row, f'{path} is {reprlib.repr(found)}, expected an object with {key!r}'
      )
    found = found[key]
    path += f'[{key}]' if isinstance(key, int) else f'.{key}'
  return _parsed(found, path) if where.joint is not None else found


def cell_value(text):
  """Returns what a cell's text stands for, by JSON or by Python's literals.

  The latter are what `str` makes of a list or an object: "{'text': ['Ulm']}".

  Raises:
    RowError: if it is neither.
  """
  try:
    return json.loads(text)
  except (ValueError, RecursionError) as e:  # a number of 5,000 digits is one, too
    problem = f'is not JSON: {e}'
  try:
    if len(text) > _LONGEST_LITERAL:
      raise ValueError('too long to be read as one')
    with warnings.catch_warnings(action='ignore'):  # such as of '\d'
      return ast.literal_eval(text)
  except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as e:
    raise errors.RowError(
      f'{problem}; nor is it a literal of Python: {errors.reason(e):.80}; write the '
      'cell with json.dumps, or the rows as JSONL'
    ) from e


class EmptyError(errors.RowError):
  """There is no text where one should be: as of a question without an answer."""


def _parsed(found, path):
  """Returns what a cell's text stands for, and what is no text as it is."""
  if not isinstance(found, str):
    return found
  try:
    return cell_value(found)
  except errors.RowError as e:
    raise errors.RowError(f'{path} {e}') from e


def _text(row, where, found):
  if isinstance(found, list | tuple):
    raise _wrong(
      row,
      f'{where.path} is {reprlib.repr(found)}, expected a string; one of a list is '
      f'{{{where.path}[0]}}, all joined by commas are {{{where.path}:, }}',
    )
  if not isinstance(found, str):
    raise _wrong(row, f'{where.path} is {reprlib.repr(found)}, expected a string')
  if not found.strip():
    raise EmptyError(f'{where.path} is blank')
  return clean(found).strip()


def _wrong(row, message):
  return errors.RowError(f'{message}; the columns are {_columns(row)}')


def _columns(row):
  return f'{", ".join(map(repr, row)):.200}'


def clean(text):
  """Returns a text that can be tokenised and written."""
  # A lone surrogate is no character: no tokenizer or UTF-8 file takes one.
  return re.sub('[\ud800-\udfff]', '\ufffd', text)
