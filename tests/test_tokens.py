"""Tokenising many rows at once: as one by one, and kept between runs."""

import copy
import os

import numpy as np
import pytest
from conftest import ROWS

from jaxprompt import caches
from jaxprompt import errors
from jaxprompt.data import rows as rows_lib
from jaxprompt.data import sources
from jaxprompt.data import token_cache
from jaxprompt.data import tokens
from jaxprompt.tasks import tasks
from jaxprompt.tasks import template as template_lib

LIMITS = {'max_source_tokens': 14, 'max_target_tokens': 12}


@pytest.fixture(scope='module')
def template(gpt2):
  return template_lib.Template(gpt2[2])


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """A cache of its own, that keeps few texts too."""
  monkeypatch.setattr(caches, 'ROOT', tmp_path)
  monkeypatch.setattr(tokens, '_WORTH_KEEPING', 0)
  return tmp_path / 'tokens'


def _examples(first=0):
  """Examples of which some are cut, and some are longer than can be cut."""
  texts = [
    'A man.',
    'A man. ' * 20,
    '😀' * 9,
    'Ein Mann und eine Frau gehen.',
    'x\n  y',
  ]
  ends = ['', '\nWho?', '\n' + 'Who? ' * 20]
  pairs = [(text, after) for text in texts[first:] for after in ends]
  return [
    tasks.Example(str(i), '', text, after, texts[i % len(texts)], (text,))
    for i, (text, after) in enumerate(pairs)
  ]


def test_many_texts_are_the_tokens_of_each(gpt2):
  texts = ['', 'a  b', '<|endoftext|>', '😀 é', ' x\n']
  expected = [template_lib.encode(gpt2[2], text)[0] for text in texts]
  assert template_lib.encode_many(gpt2[2], texts) == expected
  assert template_lib.encode_many(gpt2[2], []) == []


def test_many_rows_are_cut_and_refused_as_each_alone(template):
  examples = _examples()
  found = tokens.tokenise(template, examples, **LIMITS).to_pylist()
  kinds = set()
  for example, row in zip(examples, found, strict=True):
    try:
      own = (example.before, example.text, example.after)
      text, source_ids = template.source(*own, 14)
      target, target_ids = template.target(example.target, 12)
    except errors.RowError as e:
      assert row['error'] == str(e)
      kinds.add('refused')
      continue
    assert row == {
      'source': text + example.after,
      'source_cut': text != example.text,
      'source_ids': source_ids,
      'target': target,
      'target_cut': target != example.target,
      'target_ids': target_ids,
      'error': None,
    }
    kinds.add(('cut', row['source_cut'], row['target_cut']))
  assert len(kinds) >= 4


def _forbid_tokenising(monkeypatch):
  def refuse(*_):
    raise AssertionError('tokenised again')

  monkeypatch.setattr(tokens, '_tokenise', refuse)


def test_what_was_tokenised_once_is_read_again(template, cache, monkeypatch):
  first = tokens.tokenise(template, _examples(), **LIMITS)
  assert len(list(cache.iterdir())) == 1
  _forbid_tokenising(monkeypatch)
  assert tokens.tokenise(template, _examples(), **LIMITS).equals(first)
  for other in (
    lambda: tokens.tokenise(template, _examples(first=1), **LIMITS),
    lambda: tokens.tokenise(template, _examples(), **LIMITS | {'max_target_tokens': 5}),
  ):
    with pytest.raises(AssertionError, match='tokenised again'):
      other()


def test_another_tokenizer_has_entries_of_its_own(template):
  other = copy.deepcopy(template.tokenizer)
  assert template_lib.Template(other).fingerprint == template.fingerprint
  other.add_tokens('steam engine')
  assert template_lib.Template(other).fingerprint != template.fingerprint


@pytest.mark.parametrize(
  'damage', [lambda x: b'', lambda x: x[:-1], lambda x: x[:40] + b'?' + x[41:]]
)
def test_a_damaged_entry_is_made_again(template, cache, monkeypatch, damage):
  first = tokens.tokenise(template, _examples(), **LIMITS)
  (entry,) = cache.iterdir()
  whole = entry.read_bytes()
  entry.write_bytes(damage(whole))
  assert tokens.tokenise(template, _examples(), **LIMITS).equals(first)
  assert [x.read_bytes() for x in cache.iterdir()] == [whole]


def test_a_cache_that_cannot_be_had_or_written_is_no_error(
  template, cache, monkeypatch
):
  cache.write_text('a file of the user')
  expected = tokens.tokenise(template, _examples(), **LIMITS)
  cache.unlink()

  def full(file, table):
    raise OSError('no space left on device')

  monkeypatch.setattr(token_cache, '_write', full)
  assert tokens.tokenise(template, _examples(), **LIMITS).equals(expected)


def test_the_entries_that_were_used_last_stay(template, cache, monkeypatch):
  for first in (0, 1):
    tokens.tokenise(template, _examples(first), **LIMITS)
  for entry in cache.iterdir():
    os.utime(entry, (0, 0))
  tokens.tokenise(template, _examples(0), **LIMITS)  # is used
  sizes = [x.stat().st_size for x in cache.iterdir()]
  monkeypatch.setattr(token_cache, '_MOST_BYTES', sum(sizes))
  tokens.tokenise(template, _examples(3), **LIMITS)
  assert len(list(cache.iterdir())) == 2
  _forbid_tokenising(monkeypatch)
  tokens.tokenise(template, _examples(0), **LIMITS)


def test_rows_of_several_parts_are_as_of_one(template, monkeypatch):
  held = [ROWS['qa'](i) for i in range(7)]
  held[2] = {**held[2], 'context': ' '}
  held[5] = {**held[5], 'question': 'Who? ' * 40}
  held[6] = {**held[6], 'answers': {'text': ['James Watt', 'Watt']}}
  split = sources.Split(held, lambda i: f'line {i + 1}')
  limits = {'size': 0, 'max_source_tokens': 60, 'max_target_tokens': 9}

  def load(skip=True):
    labels = []
    return rows_lib.load(
      template,
      tasks.TASKS['qa'],
      split,
      **limits,
      skip=skip,
      progress=lambda parts: labels.append(len(parts)) or parts,
    ), labels

  whole, labels = load()
  assert labels == [1]
  monkeypatch.setattr(rows_lib, '_ROWS_AT_ONCE', 3)
  parts, labels = load()
  assert labels == [3]
  assert (parts.fingerprint, parts.skipped) == (whole.fingerprint, 2)
  assert [row.id for row in parts.rows] == ['q0', 'q1', 'q3', 'q4', 'q6']
  assert parts.rows[4].references == ('James Watt', 'Watt')
  assert parts.rows[-1].id == 'q6' and len(parts.rows[1:3]) == 2
  for one, other in zip(parts.rows, whole.rows, strict=True):
    assert one.source_ids.tolist() == other.source_ids.tolist()
    assert one.target_ids.dtype == np.int32 and one.references == other.references
  lengths = [(len(row.source_ids), len(row.target_ids)) for row in parts.rows]
  assert parts.rows.lengths.tolist() == [list(x) for x in lengths]
  with pytest.raises(errors.UserError, match='line 3: context is blank'):
    load(skip=False)


def test_the_first_of_all_rows_that_cannot_be_used_is_named(template):
  held = [{**ROWS['qa'](0), 'question': 'Who? ' * 40}, {}]
  split = sources.Split(held, lambda i: f'line {i + 1}')
  with pytest.raises(errors.UserError, match=r'line 1: .* is never cut'):
    rows_lib.load(template, tasks.TASKS['qa'], split, size=0, **LIMITS)


def test_the_fingerprint_is_of_the_texts_alone(template):
  """The hash that runs of before have in their config.json."""
  split = sources.Split([ROWS['qa'](i) for i in range(3)], str)
  limits = {'max_source_tokens': 90, 'max_target_tokens': 20}
  rows = rows_lib.load(template, tasks.TASKS['qa'], split, size=0, **limits)
  assert rows.fingerprint == (
    'adea50a8b1fe898140343a2487ffa7fbc796b36f01bdc0f01c49bed1dd39fc82'
  )
