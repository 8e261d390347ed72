"""Reading rows from local files: the formats, and the errors that name their place."""

import csv
import datetime
import gzip
import io
import itertools
import json
import math
import re

import pyarrow
import pyarrow.parquet
import pytest
from conftest import ROWS
from conftest import write_data

from jaxprompt import errors
from jaxprompt.data import formats
from jaxprompt.data import sources


def _rows(split):
  return [split.rows[i] for i in range(len(split.rows))]


def _table(rows, delimiter):
  """CSV or TSV of rows whose values are texts."""
  file = io.StringIO()
  table = csv.DictWriter(file, rows[0], delimiter=delimiter)
  table.writeheader()
  table.writerows(rows)
  return file.getvalue()


def test_every_format_holds_the_same_rows(tmp_path):
  rows = [ROWS['qa'](i) for i in range(3)]
  cells = [{**row, 'answers': json.dumps(row['answers'])} for row in rows]
  texts = {
    '.jsonl': '\n\n'.join(json.dumps(row) for row in rows),
    '.json': json.dumps(rows, indent=2),
    '.csv': _table(cells, ','),
    '.tsv': _table(cells, '\t'),
  }
  for suffix, text in texts.items():
    (tmp_path / f'a{suffix}').write_bytes(text.encode())
    (tmp_path / f'a{suffix}.gz').write_bytes(gzip.compress(text.encode(), mtime=0))
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / 'a.parquet')
  for suffix in formats.SUFFIXES:
    file = tmp_path / f'a{suffix}'
    expected = cells if suffix.startswith(('.csv', '.tsv')) else rows
    assert _rows(sources.read_file(file)) == expected, suffix
    assert list(sources.stream(str(file))) == expected, suffix


@pytest.mark.parametrize(
  'line, cells',
  [
    ('"a ""b"" c"\t"d\te"', ['a "b" c', 'd\te']),  # quoted, as pandas writes it
    ('He said "hi".\t1', ['He said "hi".', '1']),
    ('"Hi," she said.\t1', ['"Hi," she said.', '1']),  # quotes that are text
    ('"an open quote\t1', ['"an open quote', '1']),
    ('\t', ['', '']),
  ],
)
def test_a_quote_in_tsv_takes_in_no_other_line(tmp_path, line, cells):
  (tmp_path / 'a.tsv').write_bytes(f'\ufeffx\ty\r\n{line}\r\nlast"\t2\r\n'.encode())
  found = _rows(sources.read_file(tmp_path / 'a.tsv'))
  assert found == [{'x': cells[0], 'y': cells[1]}, {'x': 'last"', 'y': '2'}]


def test_json_lines_in_a_json_file_are_read(tmp_path):
  (tmp_path / 'a.json').write_text('{"x": 1}\n{"x": 2}\n')
  assert _rows(sources.read_file(tmp_path / 'a.json')) == [{'x': 1}, {'x': 2}]
  (tmp_path / 'a.json').write_bytes(b'{"x": 1}\r{"x": 2}\r')
  assert _rows(sources.read_file(tmp_path / 'a.json')) == [{'x': 1}, {'x': 2}]
  (tmp_path / 'a.json').write_text('{"x": 1}\n')
  assert _rows(sources.read_file(tmp_path / 'a.json')) == [{'x': 1}]


def test_squads_nested_json_is_flattened(tmp_path):
  qas = [
    {'id': f'{i}', 'question': f'q{i}', 'answers': [{'text': 'a', 'answer_start': 0}]}
    for i in range(2)
  ]
  article = {'title': 'T', 'paragraphs': [{'context': 'c', 'qas': qas}]}
  (tmp_path / 'dev.json').write_text(json.dumps({'version': '1.1', 'data': [article]}))
  expected = {'id': '1', 'title': 'T', 'context': 'c', 'question': 'q1'}
  found = _rows(sources.read_file(tmp_path / 'dev.json'))
  assert found[1] == {**expected, 'answers': {'text': ['a']}}
  del qas[1]['answers']  # of a question to predict
  (tmp_path / 'dev.json').write_text(json.dumps({'data': [article]}))
  assert _rows(sources.read_file(tmp_path / 'dev.json'))[1] == expected


def test_one_file_is_split_by_the_seed_and_no_row_is_in_two_splits(tmp_path):
  file = tmp_path / 'all.jsonl'
  file.write_text(''.join(json.dumps({'x': i}) + '\n' for i in range(57)))
  splits = sources.read(str(file), seed=3)
  found = {name: [row['x'] for row in _rows(s)] for name, s in splits.items()}
  assert {name: len(x) for name, x in found.items()} == {
    'train': 47,
    'validation': 5,
    'test': 5,
  }
  assert sorted(itertools.chain(*found.values())) == list(range(57))
  assert all(x == sorted(x) for x in found.values())
  again, other = sources.read(str(file), seed=3), sources.read(str(file), seed=4)
  assert _rows(again['test']) == _rows(splits['test']) != _rows(other['test'])
  assert splits['test'].where(1) == f'{file} line {found["test"][1] + 1}'
  assert splits['test'].number(1) == found['test'][1]


@pytest.mark.parametrize(
  'name, content, message',
  [
    ('a.txt', '{}', r"a.txt' is a file of no kind that can be read; expected .jsonl"),
    ('a.jsonl', '{}\n{}\n', r"a.jsonl' has too few rows, 2; expected 3 or more"),
  ],
)
def test_one_file_that_cannot_be_split_is_named(tmp_path, name, content, message):
  (tmp_path / name).write_text(content)
  with pytest.raises(errors.UserError, match=message):
    sources.read(str(tmp_path / name))


def test_a_sample_is_drawn_by_the_seed_and_keeps_the_order():
  split = sources.Split([{'x': i} for i in range(40)], lambda i: f'line {i + 1}')
  drawn = [row['x'] for row in _rows(sources.sample(split, 6, 1))]
  assert len(set(drawn)) == 6 and drawn == sorted(drawn) and drawn[-1] > 6
  assert drawn == [row['x'] for row in _rows(sources.sample(split, 6, 1))]
  assert drawn != [row['x'] for row in _rows(sources.sample(split, 6, 2))]
  assert sources.sample(split, 6, 1).where(2) == f'line {drawn[2] + 1}'
  assert sources.sample(split, 6, 1).number(2) == drawn[2]
  for size in (0, 40, 41):
    assert sources.sample(split, size, 1) is split


def test_a_missing_test_split_is_cut_from_validation_and_shares_no_row(tmp_path):
  data = write_data(tmp_path, 'qa', (4, 7, 1))
  (data / 'test.jsonl').unlink()
  splits = sources.read(str(data))
  ids = {name: [row['id'] for row in _rows(split)] for name, split in splits.items()}
  assert ids['validation'] == ['q4', 'q5', 'q6', 'q7']
  assert ids['test'] == ['q8', 'q9', 'q10']
  assert splits['test'].where(1).endswith('validation.jsonl line 6')
  assert splits['test'].number(1) == 1


@pytest.mark.parametrize(
  'name, content, message',
  [
    ('a.json', '{"x"', r'a.json cannot be read: Expecting'),
    ('a.json', '[9' + '9' * 5000 + ']', r'a.json cannot be read: Exceeds the limit'),
    ('a.json', '[' * 10000, r'a.json cannot be read: maximum recursion'),
    ('a.json', '{"x":\n1}', r'a.json holds neither a list of objects'),
    ('a.json', '{"data": [{"paragraphs": [{}]}]}', "SQuAD's nested form: KeyError"),
    ('a.csv', 'id,x,x\n1,2,3\n', 'has the header .*; expected column names, all diff'),
    ('a.csv', 'id,\n1,2\n', 'has the header .*; expected column names, all diff'),
    (
      'a.csv',
      'id,x\n0,a\n1,"b\n2,c\n',
      'the row that begins in line 3 .* a quote is open',
    ),
    (
      'a.csv',
      'id,x\n0,"a\n1,"b"\n',
      'the row that begins in line 2 .* a quote is open',
    ),
    (
      'a.csv',
      'id,x\n0,"a "b" c\nd, e"\n',
      'line 2 .* a quote is open, so that nothing',
    ),
    ('a.parquet', 'PAR0', r'a.parquet cannot be read: .* expected a Parquet file'),
    (
      'a.jsonl',
      b'{"x": "\xff"}\n',
      r'a.jsonl cannot be read: .*; expected text in UTF-8',
    ),
    ('a.csv', b'x\n\xff\n', r'a.csv cannot be read: .*; expected text in UTF-8'),
    ('a.csv.gz', 'x\n1\n', r'a.csv.gz .* Not a gzipped file .*, compressed by gzip'),
    ('a.json.gz', gzip.compress(b'[{}]', mtime=0)[:-9], 'a.json.gz cannot be read: '),
    ('a.tsv', 'id\tx\tx\n', 'has the header .*; expected column names, all diff'),
    ('a.tsv', '', "a.tsv has the header ''; expected column names"),
  ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
  file = tmp_path / name
  file.write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(errors.UserError, match=message) as e:
    sources.read_file(file)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize(
  'name, content, place, message',
  [
    ('a.jsonl', '{"id": 0}\n{"x": \n', 'line 2', 'is not JSON: Expecting value'),
    ('a.jsonl', '{"id": 0}\n\n[1]\n', 'line 3', r'is no object: \[1\]'),
    (
      'a.jsonl',
      '{"id": 0}\n{"x": 9' + '9' * 5000 + '}\n',
      'line 2',
      'is not JSON: Exc',
    ),
    ('a.jsonl', '{"id": 0}\n' + '[' * 10000 + '\n', 'line 2', 'is not JSON: maximum'),
    ('a.csv', 'id,x\n0,a\n1,b,c\n', 'line 3', 'has 3 cells, the header 2; a text that'),
    ('a.csv', 'id,x\n0,a\n1\n', 'line 3', 'has 1 cells, the header 2'),
    ('a.csv', 'id,x\n0,a\n1,"b"c\n', 'line 3', 'is not CSV: .* look at its quotes'),
    ('a.tsv', 'id\tx\n0\ta\n1\tb\tc\n', 'line 3', 'has 3 cells, .* no text may hold a'),
    ('a.json', '{"id": 0}\n{"x": \n', 'line 2', 'is not JSON: Expecting value'),
  ],
)
def test_a_row_that_cannot_be_read_is_an_error_of_that_row(
  tmp_path, name, content, place, message
):
  file = tmp_path / name
  file.write_text(content)
  split = sources.read_file(file)
  (good, bad), streamed = _rows(split), list(sources.stream(str(file)))
  assert str(good['id']) == '0' and streamed[0] == good
  assert split.where(1) == f'{file} {place}'
  for error, text in ((bad, str(bad)), (streamed[1], str(streamed[1]))):
    assert isinstance(error, errors.RowError)
    assert re.search(message, text) and '\n' not in text
  assert str(streamed[1]).startswith(f'{file} {place} ')


@pytest.mark.parametrize(
  'name, content, expected',
  [
    ('a.jsonl', '\ufeff{"id": NaN}\r\n', {'id': math.nan}),
    ('a.csv', '\ufeffid,x\r\n"1, 2","a ""b"""\r\n\r\n', {'id': '1, 2', 'x': 'a "b"'}),
    ('a.csv', 'id,x\n\x00,\n', {'id': '\x00', 'x': ''}),
    ('a.csv', '\n\nid,x\n1,2\n', {'id': '1', 'x': '2'}),
    ('a.json', '\ufeff[{"id": "\\ud800"}]', {'id': '\ud800'}),
  ],
)
def test_marks_line_ends_and_odd_values_are_read_as_they_are(
  tmp_path, name, content, expected
):
  file = tmp_path / name
  file.write_bytes(content.encode())
  (row,) = _rows(sources.read_file(file))
  assert str(row) == str(expected)


def test_an_element_or_a_question_that_is_no_row_spoils_no_other(tmp_path):
  (tmp_path / 'list.json').write_text('[{"id": 1}, 2]')
  good, bad = _rows(sources.read_file(tmp_path / 'list.json'))
  assert good == {'id': 1} and str(bad) == 'is no object: 2'
  qas = [{'id': 'a', 'question': 'q', 'answers': answers} for answers in (None, [7])]
  article = {'paragraphs': [{'context': 'c', 'qas': [*qas, None]}]}
  (tmp_path / 'dev.json').write_text(json.dumps({'data': [article]}))
  unanswered, *bad = _rows(sources.read_file(tmp_path / 'dev.json'))
  assert unanswered['answers'] == {'text': []}  # of no answer, as SQuAD v2's []
  assert [str(e).partition(':')[0] for e in bad] == [
    "is no question in SQuAD's form"
  ] * 2


@pytest.mark.parametrize('path', ['a' * 300, '/' + 'a' * 300, './a\0b'])
def test_a_path_that_no_file_can_have_is_no_traceback(path):
  with pytest.raises(errors.UserError, match='is no file; expected one'):
    sources.check_input(path + '.jsonl')
  if path != 'a' * 300:  # the hub's
    with pytest.raises(errors.UserError, match='is neither a directory nor a file'):
      sources.read(path)


def test_standard_input_is_utf8_in_any_locale_and_may_be_closed(monkeypatch):
  content = io.BytesIO('\ufeff{"x": "é"}\n'.encode())
  monkeypatch.setattr('sys.stdin', io.TextIOWrapper(content, encoding='latin-1'))
  assert list(sources.stream('-')) == [{'x': 'é'}]
  content = io.BytesIO(b'{"x": "\xff"}\n')
  stdin = io.TextIOWrapper(content, encoding='utf-8', errors='surrogateescape')
  monkeypatch.setattr('sys.stdin', stdin)
  with pytest.raises(errors.UserError, match='expected text in UTF-8'):
    list(sources.stream('-'))
  monkeypatch.setattr('sys.stdin', None)
  with pytest.raises(errors.UserError, match='standard input is closed'):
    list(sources.stream('-'))


def test_standard_input_may_begin_with_a_byte_order_mark(monkeypatch):
  monkeypatch.setattr('sys.stdin', io.StringIO('\ufeff{"id": 1}\n{"id": 2}\n'))
  assert list(sources.stream('-')) == [{'id': 1}, {'id': 2}]


def test_parquets_types_are_read_as_they_are(tmp_path):
  columns = {
    'id': pyarrow.array([1.5, None]),
    'when': pyarrow.array([datetime.date(2020, 1, 2), None]),
    'x': pyarrow.array(['a', 'b']).dictionary_encode(),
  }
  file = tmp_path / 'a.parquet'
  pyarrow.parquet.write_table(pyarrow.table(columns), file)
  rows = _rows(sources.read_file(file))
  assert [row['x'] for row in rows] == ['a', 'b'] and rows[1]['id'] is None


@pytest.mark.parametrize(
  'name',
  [
    *('Test.jsonl', 'test.ndjson', 'test.txt', 'test.jsonl.bz2', 'test_set.jsonl'),
    'test-00000-of-00001.parquet',
  ],
)
def test_a_split_under_another_name_is_not_drawn_from_validation(tmp_path, name):
  data = write_data(tmp_path, 'qa')
  (data / 'test.jsonl').rename(data / name)
  with pytest.raises(errors.UserError, match=f'holds {name}, which is not read'):
    sources.read(str(data))


def test_a_run_of_rows_in_memory_has_none_to_read():
  with pytest.raises(errors.UserError, match=r'were in memory, .* use jp\.compare'):
    sources.read(sources.IN_MEMORY)


def test_rows_in_memory_that_are_none_are_named():
  rows = [{'x': 1}, {'x': 2}]
  with pytest.raises(errors.UserError, match="'Test' is no split; expected train, v"):
    sources.given({'train': rows, 'validation': rows, 'Test': rows})
  with pytest.raises(
    errors.UserError, match=r"rows of 'train' are a .*expected a list"
  ):
    sources.given({'train': (row for row in rows), 'validation': rows})


def test_what_a_directory_lacks_is_named(tmp_path):
  with pytest.raises(errors.UserError, match='is neither a directory nor a file'):
    sources.read(str(tmp_path / 'none'))
  with pytest.raises(errors.UserError, match='has no train split'):
    sources.read(str(tmp_path))
  data = write_data(tmp_path, 'qa')
  (data / 'validation.jsonl').write_text('\n')
  with pytest.raises(errors.UserError, match='no rows for the validation split'):
    sources.read(str(data))
  (data / 'train.csv').write_text('x\n1\n')
  with pytest.raises(errors.UserError, match=r'train.jsonl and train.csv'):
    sources.read(str(data))
