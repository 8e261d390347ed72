"""Rows to batches: tokens, cuts, shapes and the order of an epoch."""

import collections

import numpy as np
import pytest
from conftest import ROWS

from jaxprompt import errors
from jaxprompt.data import buckets
from jaxprompt.data import collate
from jaxprompt.data import rows as rows_lib
from jaxprompt.data import sources
from jaxprompt.tasks import columns
from jaxprompt.tasks import tasks
from jaxprompt.tasks import template


def _load(tokenizer, task, rows, source=90, target=20, size=0, skip=False):
  split = sources.Split(rows, lambda i: f'rows.jsonl line {i + 1}')
  return rows_lib.load(
    template.Template(tokenizer),
    tasks.TASKS[task] if isinstance(task, str) else task,
    split,
    size=size,
    max_source_tokens=source,
    max_target_tokens=target,
    skip=skip,
  )


class _Silent:
  """A tokenizer to which no text is any token."""

  eos_token_id = 0

  def __call__(self, text, **_):
    return {'input_ids': [], 'offset_mapping': []}


@pytest.fixture(scope='module')
def tokenizer(gpt2):
  return gpt2[2]


@pytest.mark.parametrize(
  'task, source, target',
  [
    (
      'qa',
      'The steam engine number 2 was improved by James Watt in 1702.\n'
      'Who improved the steam engine number 2?',
      'James Watt',
    ),
    (
      'summarization',
      'We present method 2. ' + ' '.join(['It learns a model of the world.'] * 3),
      'Method 2 learns.',
    ),
    ('translation', 'A man and 2 women.', 'Ein Mann und 2 Frauen.'),
  ],
)
def test_the_template_is_source_newline_space_target_end(
  tokenizer, task, source, target
):
  (row,) = _load(tokenizer, task, [ROWS[task](2)]).rows
  assert (row.source, row.target) == (source, target)
  expected = tokenizer(source)['input_ids'] + tokenizer('\n')['input_ids']
  assert row.source_ids.tolist() == expected
  expected = [*tokenizer(' ' + target)['input_ids'], tokenizer.eos_token_id]
  assert row.target_ids.tolist() == expected


def test_a_long_context_is_cut_and_counted_but_never_the_question(tokenizer):
  row = {**ROWS['qa'](1), 'context': 'The steam engine was improved. ' * 50}
  found = _load(tokenizer, 'qa', [row, ROWS['qa'](2)], source=60)
  cut, whole = found.rows
  assert found.sources_cut == 1
  head, _, question = cut.source.partition('\n')
  assert question == 'Who improved the steam engine number 1?'
  assert row['context'].startswith(head)
  assert 55 < len(cut.source_ids) <= 61  # with the newline
  ids = tokenizer(cut.source + '\n')['input_ids']
  assert cut.source_ids.tolist() == ids  # the string is what was tokenised
  assert whole.source.startswith('The steam engine number 2')


def test_a_question_longer_than_the_limit_is_an_error_that_names_its_row(tokenizer):
  with pytest.raises(errors.UserError, match=r'rows.jsonl line 1: .*max_source_tokens'):
    _load(tokenizer, 'qa', [ROWS['qa'](1)], source=5)


def test_a_long_target_is_cut_but_its_reference_is_not(tokenizer):
  row = {'translation': {'en': 'A man.', 'de': 'Ein Mann und eine Frau gehen.'}}
  found = _load(tokenizer, 'translation', [row], target=4)
  assert found.targets_cut == 1
  assert 'Ein Mann und eine Frau gehen.'.startswith(found.rows[0].target)
  assert len(found.rows[0].target_ids) <= 5  # with the end of text
  assert found.rows[0].references == ('Ein Mann und eine Frau gehen.',)


def test_a_label_is_never_cut(tokenizer):
  labels = ('entailment', 'contradiction')
  task = tasks.Task('{text}', '{label}', labels=labels, metrics=('macro_f1',))
  found = _load(tokenizer, task, [{'text': 'x', 'label': labels[1]}], target=1)
  assert (found.rows[0].target, found.targets_cut) == (labels[1], 0)


@pytest.mark.parametrize(
  'text',
  [
    'a\x00b',
    'lone \ud800 surrogate \udfff',
    'x' * 100_000,
    '😀👩‍👩‍👧‍👦' * 30,
    'שלום עולם مرحبا بالعالم',
    'ends <|endoftext|> here',
    '\u2028 \t\r\n middle \n\n end',
  ],
  ids=['nul', 'surrogates', 'long', 'emoji', 'right-to-left', 'special', 'spaces'],
)
def test_text_may_hold_anything(tokenizer, text):
  row = {'translation': {'en': text, 'de': text}}
  (row,) = _load(tokenizer, 'translation', [row]).rows
  assert 1 < len(row.source_ids) <= 91 and 1 < len(row.target_ids) <= 21
  assert tokenizer.eos_token_id not in row.source_ids
  row.source.encode('utf-8')
  ids, _ = template.encode(tokenizer, row.source + '\n')
  assert row.source_ids.tolist() == ids


def test_odd_names_of_columns_are_shown_in_one_line():
  with pytest.raises(errors.RowError, match='missing; found') as e:
    tasks.TASKS['qa'].parse_source({'\n': 1, '\ud800': 2})
  assert r"found '\n', '\ud800': example.source" in str(e.value)


def test_no_character_is_cut_in_two(tokenizer):
  row = {'translation': {'en': '😀' * 9, 'de': 'x'}}
  target = {'translation': {'en': 'x', 'de': '😀' * 9}}
  for less in ({'source': 1}, {'source': 2}, {'target': 1}):  # than a character
    with pytest.raises(errors.UserError, match=r'cannot be cut to \d tokens; raise'):
      _load(tokenizer, 'translation', [target if 'target' in less else row], **less)
  for limit in range(4, 20):
    (cut,) = _load(tokenizer, 'translation', [row], source=limit).rows
    assert set(cut.source) <= {'😀'}


def test_size_takes_the_first_rows_and_all_if_there_are_fewer(tokenizer):
  rows = [ROWS['qa'](i) for i in range(5)]
  assert [r.id for r in _load(tokenizer, 'qa', rows, size=2).rows] == ['q0', 'q1']
  assert len(_load(tokenizer, 'qa', rows, size=9).rows) == 5


@pytest.mark.parametrize(
  'row, message',
  [
    ({'context': 'c', 'answers': {'text': ['a']}}, "column 'question' is missing"),
    ({'a\n\ud800': 'c'}, r"column 'context' is missing; found 'a\\n\\ud800'"),
    ({**ROWS['qa'](0), 'answers': '[9' + '9' * 5000 + ']'}, 'answers is not JSON: Exc'),
    ({**ROWS['qa'](0), 'context': None}, 'context is None, expected a string'),
    ({**ROWS['qa'](0), 'question': 7}, 'question is 7, expected a string'),
    ({**ROWS['qa'](0), 'context': ' \n'}, 'context is blank'),
    ({**ROWS['qa'](0), 'question': ''}, 'question is blank'),
    ({**ROWS['qa'](0), 'answers': {'text': []}}, 'text has 0 texts, so there is no .0'),
    ({**ROWS['qa'](0), 'answers': {'text': ['  ']}}, r'answers.text\[0\] is blank'),
    ({**ROWS['qa'](0), 'answers': None}, "answers is None, expected an object with 't"),
    ({**ROWS['qa'](0), 'answers': 'Watt'}, 'answers is not JSON: '),
    ({**ROWS['qa'](0), 'answers': '"Watt"'}, "expected an object with 'text'"),
    (errors.RowError('has 4 cells, the header 3'), 'has 4 cells, the header 3'),
    ('a context and a question', "is 'a context and a question', expected a dict by"),
    (None, 'is None, expected a dict by columns'),
  ],
)
def test_a_row_that_cannot_be_used_is_named(tokenizer, row, message):
  with pytest.raises(errors.UserError, match='rows.jsonl line 2: .*' + message):
    _load(tokenizer, 'qa', [ROWS['qa'](1), row])
  skipped = _load(tokenizer, 'qa', [ROWS['qa'](1), row], skip=True)
  assert ([r.id for r in skipped.rows], skipped.skipped) == (['q1'], 1)
  with pytest.raises(errors.UserError, match='no row of this split can be used'):
    _load(tokenizer, 'qa', [row], skip=True)


@pytest.mark.parametrize(
  'cell',
  ['{"text": ["a", "b"]}', "{'text': ['a', \"b\"], 'answer_start': [1, None]}"],
)
def test_a_cell_holds_json_or_a_literal_of_python(tokenizer, cell):
  (row,) = _load(tokenizer, 'qa', [{**ROWS['qa'](0), 'answers': cell}]).rows
  assert row.references == ('a', 'b')


@pytest.mark.parametrize(
  'cell',
  [
    "{'text': array(['a'], dtype=object)}",  # as pandas writes NumPy's arrays
    "__import__('os').getcwd()",
    '[' * 300,
    '-' * 10_000 + '1',
    "['" + 'a' * 2**17 + "']",
    "{[]: '\\d'}",
  ],
)
def test_a_cell_of_neither_is_refused_with_the_remedy(cell):
  with pytest.raises(errors.RowError, match=r'is not JSON: .* literal .* json\.dumps'):
    columns.cell_value(cell)


def test_an_id_that_is_nested_too_deep_gives_way_to_the_rows_number():
  deep = []
  for _ in range(5000):
    deep = [deep]
  assert tasks.row_id({'id': deep}, 3) == '3'


def test_a_source_that_is_no_token_is_refused():
  with pytest.raises(errors.RowError, match="'a source' is no token to the tokenizer"):
    template.Template(_Silent()).source('', 'a source', '', 9)


LENGTHS = np.random.default_rng(0).integers(20, 300, 203)
SIZES = np.stack([LENGTHS, LENGTHS // 9], axis=1)
# Sources and targets whose lengths have nothing to do with each other.
APART = np.stack([LENGTHS, np.random.default_rng(1).geometric(0.1, 203)], axis=1)


def test_an_epoch_has_every_row_once_and_one_short_batch():
  shapes = buckets.shapes(SIZES, 8, 4)
  plan = buckets.plan(SIZES, shapes, 8, np.random.default_rng(1))
  seen = collections.Counter(i for indices, _ in plan for i in indices)
  assert seen == dict.fromkeys(range(203), 1)
  assert sorted(len(indices) for indices, _ in plan) == [3] + [8] * 25


def test_batches_fit_their_shape_with_little_padding_and_few_shapes():
  shapes = buckets.shapes(SIZES, 8, 4)
  plan = buckets.plan(SIZES, shapes, 8, np.random.default_rng(1))
  assert len(shapes) <= buckets.MAX_SHAPES
  for indices, (length, targets) in plan:
    assert LENGTHS[indices].max() <= length
    assert (LENGTHS[indices] // 9).max() <= targets
  padding = 8 * sum(shape[0] for _, shape in plan) - LENGTHS.sum()
  one_shape = 8 * len(plan) * LENGTHS.max() - LENGTHS.sum()
  assert padding < 0.3 * one_shape


@pytest.mark.parametrize('rng', [None, np.random.default_rng(1)])
def test_sources_and_targets_padded_apart_come_in_few_shapes_that_hold_them(rng):
  shapes = buckets.shapes(APART, 8, 4, apart=True)
  plan = buckets.plan(APART, shapes, 8, rng)
  assert len(shapes) <= buckets.MAX_SHAPES
  assert {shape for _, shape in plan} <= set(shapes)
  seen = collections.Counter(i for indices, _ in plan for i in indices)
  assert seen == dict.fromkeys(range(203), 1)
  assert sorted(len(indices) for indices, _ in plan) == [3] + [8] * 25
  for indices, shape in plan:
    assert (APART[indices] <= shape).all()


def test_targets_padded_apart_are_padded_less_than_by_the_sources_length_alone():
  def padded_targets(shapes):
    return sum(targets for _, (_, targets) in buckets.plan(APART, shapes, 8))

  by_source = buckets.shapes(APART, 8, 4)
  assert padded_targets(buckets.shapes(APART, 8, 4, apart=True)) < 0.6 * padded_targets(
    by_source
  )


def test_the_smallest_shape_holds_all_in_both_lengths():
  shapes = [(5, 2), (9, 2), (6, 7), (9, 7)]
  assert buckets.smallest(shapes, [(4, 2), (3, 1)]) == (5, 2)
  assert buckets.smallest(shapes, [(4, 2), (3, 3)]) == (6, 7)
  assert buckets.smallest(shapes, [(7, 1), (3, 3)]) == (9, 7)


def test_shapes_have_the_least_padding_that_their_number_allows():
  lengths = np.repeat([3, 4, 10, 11, 30], 8)
  # With 40 rows and batches of 3 there are 3 shapes; [4, 11, 30] pads 16 tokens.
  assert buckets.shapes(np.stack([lengths, lengths - 1], axis=1), 3, 4) == [
    (4, 3),
    (11, 10),
    (30, 29),
  ]


def test_few_batches_share_one_shape():
  assert buckets.shapes([(5, 2), (9, 1), (7, 3)], 2, 4) == [(9, 3)]
  lengths = [len(buckets.shapes(SIZES, 8, each)) for each in (27, 13, 6, 1)]
  assert lengths == [1, 2, 4, 8]  # of 26 batches


def test_rows_that_stay_together_do_so_in_every_epoch_and_come_in_another_order():
  shapes = buckets.shapes(SIZES, 8, 4)
  plans = [
    buckets.epoch_plan(SIZES, shapes, 8, seed=seed, epoch=epoch, apart=True)
    for seed, epoch in ((0, 1), (0, 2), (1, 1))
  ]
  first, second, other_seed = ([tuple(rows) for rows, _ in plan] for plan in plans)
  assert first != second and sorted(first) == sorted(second)
  assert sorted(first) != sorted(other_seed)


def test_the_order_is_a_function_of_seed_and_epoch(tokenizer):
  rows = _load(tokenizer, 'qa', [ROWS['qa'](i) for i in range(40)]).rows
  sizes = buckets.bucket_sizes(rows.lengths, apart=False)
  shapes = buckets.shapes(sizes, 4, 4)

  def order(seed, epoch):
    plan = buckets.epoch_plan(sizes, shapes, 4, seed=seed, epoch=epoch, apart=False)
    return [indices.tolist() for indices, _ in plan]

  assert order(0, 1) == order(0, 1)
  assert order(0, 1) != order(0, 2)
  assert order(0, 1) != order(1, 1)


def test_a_short_batch_is_filled_with_rows_that_count_nothing(tokenizer):
  rows = _load(tokenizer, 'qa', [ROWS['qa'](i) for i in range(2)]).rows
  length = max(row.length for row in rows)
  batch = collate.collate(rows, (length + 1, 15), 3, pad_id=5)
  assert batch.input_ids.shape == batch.attention_mask.shape == (3, length + 1)
  assert batch.loss_mask.sum(axis=1).tolist() == [
    *(len(row.target_ids) for row in rows),
    0,
  ]
  assert not batch.attention_mask[2].any()
  for i, row in enumerate(rows):
    positions = batch.target_positions[i][batch.loss_mask[i]]
    assert batch.input_ids[i][positions].tolist() == row.target_ids.tolist()


def test_before_a_suffix_prompt_the_source_comes_apart(tokenizer):
  rows = _load(tokenizer, 'qa', [ROWS['qa'](i) for i in range(2)]).rows
  shape = tuple(buckets.bucket_sizes(rows.lengths, apart=True).max(axis=0) + (2, 1))
  batch = collate.collate(rows, shape, 3, pad_id=5, apart=True)
  assert batch.source_ids.shape == batch.source_mask.shape == (3, shape[0])
  assert batch.input_ids.shape == batch.loss_mask.shape == (3, shape[1])
  for i, row in enumerate(rows):
    assert batch.source_ids[i][batch.source_mask[i]].tolist() == row.source_ids.tolist()
    positions = batch.target_positions[i][batch.loss_mask[i]]
    assert batch.input_ids[i][positions].tolist() == row.target_ids.tolist()
