"""Reading rows from local files: the formats, and the errors that name their place."""

import csv
import json

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
  for suffix in sources.READERS:
    assert _rows(sources.read_file(tmp_path / f'a{suffix}')) == rows, suffix


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
    ('a.jsonl', '{"x": 1}\n{"x": \n', r'a.jsonl line 2 is not JSON'),
    ('a.jsonl', '{"x": 1}\n\n[1]\n', r'a.jsonl line 3 is no JSON object: \[1\]'),
    ('a.json', '{"x"', r'a.json is not JSON'),
    ('a.json', '{"x": 1}', r'a.json holds neither a list of objects'),
    ('a.json', '{"data": [{"paragraphs": [{}]}]}', "SQuAD's nested form: no 'qas'"),
    ('a.csv', 'id,answers\n1,{oops\n', 'a.csv row 0: answers is not JSON'),
    ('a.parquet', 'PAR0', r'a.parquet cannot be read as .parquet'),
    ('a.jsonl', b'{"x": "\xff"}\n', r'a.jsonl is not UTF-8'),
  ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
  file = tmp_path / name
  file.write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(errors.UserError, match=message) as e:
    sources.read_file(file)
  assert '\n' not in str(e.value)


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
