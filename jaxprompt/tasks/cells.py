"""A table's cell that holds more than a text: a list or an object, written as text."""

import ast
import json
import warnings

from jaxprompt import errors

_LONGEST_LITERAL = (
  2**17
)  # characters; Python's parser takes some hundred bytes for each


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
