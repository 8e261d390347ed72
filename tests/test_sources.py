"""Reading rows from local files: the formats, and the errors that name their place."""

import csv
import datetime
import io
import json
import math
import re

import pyarrow
import pyarrow.parquet
import pytest
from conftest import ROWS
from conftest import write_data

from jaxprompt import errors
from jaxprompt import sources


def _rows(split):
  return [split.rows[i] for i in range(len(split.rows))]


def test_jsonl_csv_parquet_and_json_hold_the_same_rows(tmp_path):
  rows = [ROWS['qa'](i) for i in range(3)]
  (tmp_path / 'a.jsonl').write_text('\n\n'.join(json.dumps(row) for row in rows))
  (tmp_path / 'a.json').write_text(json.dumps(rows, indent=2))
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / 'a.parquet')
  with (tmp_path / 'a.csv').open('w', newline='') as f:
    table = csv.DictWriter(f, rows[0])
    table.writeheader()
    table.writerows({**row, 'answers': json.dumps(row['answers'])} for row in rows)
  csv_rows = [{**row, 'answers': json.dumps(row['answers'])} for row in rows]
  for suffix in sources.SUFFIXES:
    found = _rows(sources.read_file(tmp_path / f'a{suffix}'))
    assert found == (csv_rows if suffix == '.csv' else rows), suffix


def test_json_lines_in_a_json_file_are_read(tmp_path):
  (tmp_path / 'a.json').write_text('{"x": 1}\n{"x": 2}\n')
  assert _rows(sources.read_file(tmp_path / 'a.json')) == [{'x': 1}, {'x': 2}]


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


def test_a_missing_test_split_is_cut_from_validation_and_shares_no_row(tmp_path):
  data = write_data(tmp_path, 'qa', (4, 7, 1))
  (data / 'test.jsonl').unlink()
  splits = sources.read(str(data))
  ids = {name: [row['id'] for row in _rows(split)] for name, split in splits.items()}
  assert ids['validation'] == ['q4', 'q5', 'q6', 'q7']
  assert ids['test'] == ['q8', 'q9', 'q10']
  assert splits['test'].where(1).endswith('validation.jsonl line 6')


@pytest.mark.parametrize(
  'name, content, message',
  [
    ('a.json', '{"x"', r'a.json cannot be read: Expecting'),
    ('a.json', '[9' + '9' * 5000 + ']', r'a.json cannot be read: Exceeds the limit'),
    ('a.json', '[' * 10000, r'a.json cannot be read: maximum recursion'),
    ('a.json', '{"x": 1}', r'a.json holds neither a list of objects'),
    ('a.json', '{"data": [{"paragraphs": [{}]}]}', "SQuAD's nested form: no 'qas'"),
    ('a.csv', 'id,x,x\n1,2,3\n', 'has the header .*; expected column names, all diff'),
    ('a.csv', 'id,\n1,2\n', 'has the header .*; expected column names, all diff'),
    ('a.csv', '\nid,x\n', 'has the header .*; expected column names, all diff'),
    ('a.parquet', 'PAR0', r'a.parquet cannot be read: .* expected a Parquet file'),
    (
      'a.jsonl',
      b'{"x": "\xff"}\n',
      r'a.jsonl cannot be read: .*; expected text in UTF-8',
    ),
    ('a.csv', b'x\n\xff\n', r'a.csv cannot be read: .*; expected text in UTF-8'),
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
    ('a.csv', 'id,x\n0,a\n1,b,c\n', 'row 1', 'has 3 cells, the header 2; a text that'),
    ('a.csv', 'id,x\n0,a\n1\n', 'row 1', 'has 1 cells, the header 2'),
    ('a.csv', 'id,x\n0,a\n1,"b"c\n', 'row 1', 'is not CSV: .* look at its quotes'),
    ('a.csv', 'id,x\n0,a\n1,"b\n2,c\n', 'row 1', 'is not CSV: unexpected end of data'),
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


def test_what_a_directory_lacks_is_named(tmp_path):
  with pytest.raises(errors.UserError, match='is not a directory'):
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
