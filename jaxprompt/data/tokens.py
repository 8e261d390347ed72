"""From examples to tokens, many at a time, and no examples twice."""

import hashlib
import itertools

import numpy as np
import pyarrow

from jaxprompt import errors
from jaxprompt.data import token_cache

_WORTH_KEEPING = 2**20  # characters; fewer are tokenised in less than a second
IDS = pyarrow.list_(pyarrow.int32())
# What becomes of an example: strings and their ids, or an error in place of them.
_SCHEMA = pyarrow.schema(
  {
    'source': pyarrow.string(),
    'source_cut': pyarrow.bool_(),
    'source_ids': IDS,
    'target': pyarrow.string(),
    'target_cut': pyarrow.bool_(),
    'target_ids': IDS,
    'error': pyarrow.string(),
  }
)


def tokenise(template, examples, *, max_source_tokens, max_target_tokens):
  """Returns the tokens of E examples, from the cache if it has them.

  Args:
    template: `template.Template`.
    examples: E `tasks.Example`s.
    max_source_tokens, max_target_tokens: longer ones are cut.

  Returns:
    A `pyarrow.Table` of E rows: `source` and `target` as they were tokenised, and their
    ids; or `error`, which says what is wrong with the row, and all else is blank.
  """
  texts = [(x.before, x.text, x.after, x.target) for x in examples]
  limits = max_source_tokens, max_target_tokens

  def make():
    return _tokenise(template, texts, *limits)

  if sum(len(text) for row in texts for text in row) < _WORTH_KEEPING:
    return make()
  digest = hashlib.sha256(repr((str(_SCHEMA), template.fingerprint, limits)).encode())
  for row in texts:
    digest.update(repr(row).encode())
  return token_cache.get(digest.hexdigest(), make)


def _tokenise(template, texts, max_source_tokens, max_target_tokens):
  sources = template.sources([row[:3] for row in texts], max_source_tokens)
  targets = template.targets([row[3] for row in texts], max_target_tokens)
  columns = {name: [] for name in _SCHEMA.names}
  for (before, text, after, answer), *found in zip(
    texts, sources, targets, strict=True
  ):
    wrong = [str(x) for x in found if isinstance(x, errors.RowError)]
    (cut, source_ids), (target, target_ids) = [('', ()), ('', ())] if wrong else found
    columns['source'].append(before + cut + after)
    columns['source_cut'].append(cut != text)
    columns['source_ids'].append(source_ids)
    columns['target'].append(target)
    columns['target_cut'].append(target != answer)
    columns['target_ids'].append(target_ids)
    columns['error'].append(wrong[0] if wrong else None)
  for name in ('source_ids', 'target_ids'):
    columns[name] = id_lists(columns[name])
  return pyarrow.table(columns, schema=_SCHEMA)


def id_lists(sequences):
  """Returns sequences of token ids as one Arrow array of int32, and where each ends."""
  ends = np.cumsum([0, *map(len, sequences)])
  ids = np.fromiter(itertools.chain.from_iterable(sequences), np.int32, ends[-1])
  return pyarrow.ListArray.from_arrays(pyarrow.array(ends, pyarrow.int32()), ids)
