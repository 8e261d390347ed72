"""Templates over a row's columns, and what a task makes of a row."""

import pytest

from jaxprompt import errors
from jaxprompt.tasks import columns
from jaxprompt.tasks import tasks


def _rendered(template, row):
  parts = columns.parse(template, 'example.source')
  return ''.join(x if isinstance(x, str) else columns.text(row, x) for x in parts)


ROW = {
  'context': ' The Rhine. ',
  'answers': {'text': ['Basel', 'in Basel'], 'start': [1, 2]},
  'cell': '{"de": "Rhein", "all": ["a", "b"]}',
  'triples': ['A | b | C', 'D | e | F'],
  'a.b': 'dotted',
  'year': 1999,
}


@pytest.mark.parametrize(
  'template, text',
  [
    ('{context}', 'The Rhine.'),
    ('Q: {context}\nA:', 'Q: The Rhine.\nA:'),
    (r'{context}\n\t{context}', 'The Rhine.\n\tThe Rhine.'),
    ('{answers.text[1]}', 'in Basel'),
    ('{answers.text: / }', 'Basel / in Basel'),
    ('{triples:\n}', 'A | b | C\nD | e | F'),
    ('{triples:}', 'A | b | CD | e | F'),
    ('{cell.de} {cell.all[1]} {cell.all:+}', 'Rhein b a+b'),
    ('{{"json": "{context}"}}', '{"json": "The Rhine."}'),
    ('{a.b}', 'dotted'),
  ],
)
def test_a_template_takes_texts_from_where_they_are_in_a_row(template, text):
  assert _rendered(template, ROW) == text


@pytest.mark.parametrize(
  'template, message',
  [
    ('{question}', "column 'question' is missing; found 'context', 'answers'"),
    ('{year}', 'year is 1999, expected a string; the columns are'),
    ('{answers.text}', r'expected a string; one of a list is \{answers.text\[0\]\}'),
    ('{answers}', "answers is {'start'.*expected a string"),
    ('{answers.text[2]}', r'answers.text has 2 texts, so there is no \[2\]'),
    ('{answers.none}', "expected an object with 'none'"),
    ('{context.de}', 'context is not JSON'),
    ('{answers.text[0][1]}', 'is not JSON'),
    ('{context:, }', 'context is not JSON'),
    ('{year:, }', 'year is 1999, expected a list'),
  ],
)
def test_what_is_no_text_is_named_with_the_columns_that_there_are(template, message):
  with pytest.raises(errors.RowError, match=message):
    _rendered(template, ROW)


@pytest.mark.parametrize(
  'template', ['{', 'a }', '{a', '{}', '{[0]}', '{a[x]}', '{a..b}', '{{a}']
)
def test_a_template_that_is_none_is_refused(template):
  with pytest.raises(errors.UserError, match=r'example.source (is|names)'):
    columns.parse(template, 'example.source')


def test_a_column_gives_way_and_what_stands_around_it_does_not():
  row = {'title': 'T', 'body': 'B', 'question': 'Q'}
  task = tasks.Task('{title}: {body}\n{question}', '{title}', cut='body')
  assert task.parse_source(row) == ('T: ', 'B', '\nQ')
  first = tasks.Task('{title}: {body}\n{question}', '{title}')
  assert first.parse_source(row) == ('', 'T', ': B\nQ')


def test_a_source_that_is_typed_ends_with_what_is_never_cut():
  assert tasks.TASKS['qa'].split('one\ntwo\nq?') == ('', 'one\ntwo', '\nq?')
  assert tasks.TASKS['qa'].split('q?') == ('', '', 'q?')
  assert tasks.TASKS['translation'].split('a\nb') == ('', 'a\nb', '')
  task = tasks.Task('{text}\nSentiment: ', '{label}')
  assert task.split('A joy.\nSentiment:') == ('', 'A joy.', '\nSentiment: ')
  assert task.split('A joy.') == ('', 'A joy.', '')


LABELS = {'labels': ('negative', 'positive'), 'metrics': ('accuracy',)}
REVIEWS = tasks.Task('Review: {text}', '{label}', **LABELS)


@pytest.mark.parametrize('label', ['positive', ' positive', 1, '1'])
def test_a_label_is_named_or_numbered(label):
  example = REVIEWS.parse({'text': 'A joy.', 'label': label}, 3)
  assert (example.source, example.target) == ('Review: A joy.', 'positive')
  assert (example.id, example.references) == ('3', ('positive',))


@pytest.mark.parametrize('label', ['good', 2, -1, True, 1.0, None, ''])
def test_what_is_no_label_is_named(label):
  with pytest.raises(errors.RowError, match=r'expected (one of negative, pos|a label)'):
    REVIEWS.parse({'text': 'A joy.', 'label': label}, 0)


@pytest.mark.parametrize('label', ['2', 2])
def test_labels_that_are_numbers_are_named_and_never_counted(label):
  labels = {'labels': ('1', '2', '3'), 'metrics': ('accuracy',)}
  stars = tasks.Task('{text}', '{label}', **labels)
  assert stars.parse({'text': 'A joy.', 'label': label}, 0).target == '2'
  with pytest.raises(errors.RowError, match=r"is '0', expected one of 1, 2, 3$"):
    stars.parse({'text': 'A joy.', 'label': 0}, 0)


def test_a_null_is_no_label():
  task = tasks.Task('{text}', '{label}', labels=('For', 'None'), metrics=('accuracy',))
  with pytest.raises(columns.EmptyError, match='label is None, expected a label'):
    task.parse({'text': 'A joy.', 'label': None}, 0)


def test_a_row_without_a_target_is_bad_or_gets_a_text_of_its_own():
  row = {'context': 'c', 'question': 'q?', 'answers': {'text': []}}
  with pytest.raises(columns.EmptyError):
    tasks.TASKS['qa'].parse(row, 0)
  given = {'source': '{question}', 'target': '{answers.text[0]}'}
  task = tasks.Task(**given, references='answers.text', empty_target='unanswerable')
  example = task.parse(row, 0)
  assert (example.target, example.references) == ('unanswerable', ('unanswerable',))
  answered = task.parse({**row, 'answers': {'text': ['a', 'b']}}, 0)
  assert (answered.target, answered.references) == ('a', ('a', 'b'))


@pytest.mark.parametrize(
  'cell, references',
  [
    (['a', 'b'], ('a', 'b')),
    ('["a", "b"]', ('a', 'b')),
    ("['a']", ('a',)),
    ('[1] a text', ('[1] a text',)),
    ('[1, 2]', ('[1, 2]',)),
    ('a', ('a',)),
  ],
)
def test_references_are_a_list_also_in_the_cell_of_a_table(cell, references):
  task = tasks.Task('{text}', '{label}', references='all')
  found = task.parse({'text': 'x', 'label': 'y', 'all': cell}, 0)
  assert found.references == references


def test_a_blank_among_references_takes_no_target_away():
  task = tasks.Task('{text}', '{all[0]}', references='all', empty_target='none')
  with pytest.raises(errors.RowError, match='all is blank'):
    task.parse({'text': 'x', 'all': ['Paris', '']}, 0)


def test_a_joined_list_without_texts_is_an_empty_target_but_no_bad_source():
  hints = tasks.Task('{text}\nHints: {keys:, }', '{text}')
  assert hints.parse_source({'text': 'x', 'keys': []}) == ('', 'x', '\nHints: ')
  task = tasks.Task('{text}', '{keys:, }', empty_target='none')
  assert task.parse({'text': 'x', 'keys': ['a', 'b']}, 0).target == 'a, b'
  assert task.parse({'text': 'x', 'keys': []}, 0).target == 'none'
  with pytest.raises(errors.RowError, match='keys is blank'):
    task.parse({'text': 'x', 'keys': ['a', '']}, 0)


def test_a_row_without_references_is_bad():
  task = tasks.Task('{text}', '{label}', references='all')
  with pytest.raises(errors.RowError, match='all is an empty list'):
    task.parse({'text': 'x', 'label': 'y', 'all': []}, 0)
  task = tasks.Task('{text}', '{label}', references='all', empty_target='none')
  with pytest.raises(errors.RowError, match='all is an empty list'):
    task.parse({'text': 'x', 'label': 'y', 'all': '[]'}, 0)


@pytest.mark.parametrize(
  'task, message',
  [
    ({'source': 'text'}, "example.source is 'text'; expected a template that names"),
    ({'target': 'x'}, "example.target is 'x'; expected a template that names a column"),
    ({'cut': 'b'}, "example.cut is 'b'; expected one of the places .*: text"),
    ({'labels': ('a',)}, r"example.labels is \['a'\]; expected several"),
    ({'labels': ('a', 'a')}, 'all different'),
    ({'labels': ('a', 'b'), 'target': 'x{label}'}, 'of a task with labels'),
    ({'metrics': ()}, 'metrics is empty'),
    ({'metrics': ('macro_f1',)}, "'macro_f1', which is of labels; set example.labels"),
    ({'metrics': ('none',)}, "metrics has 'none'; expected of"),
    ({'labels': ('a', 'b'), 'references': 'all'}, "references is 'all' of a task with"),
    ({'labels': ('a', 'b'), 'empty_target': 'c'}, "is 'c'; expected one of .*: a, b"),
    ({'references': '[0]'}, r"example.references names the place '\[0\]'"),
  ],
)
def test_a_task_that_cannot_be_is_refused(task, message):
  with pytest.raises(errors.UserError, match=message):
    tasks.Task(**{'source': '{text}', 'target': '{label}', **task})


def test_an_instruction_names_the_labels():
  expected = 'Classify the following text as a, b or c :'
  assert tasks.hard_prompt(('a', 'b', 'c')) == expected
