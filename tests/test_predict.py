"""Prediction: the evaluation's texts again, row by row, from anywhere, resumable."""

import csv
import io
import json

import pyarrow
import pyarrow.parquet
import pytest
from conftest import ROWS
from conftest import arguments
from conftest import write_data

from jaxprompt import main


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The workdir of a finished run, and its test rows."""
  workdir = tmp_path_factory.mktemp('run')
  assert main.main(arguments('qa', workdir, write_data(workdir / 'data', 'qa'))) == 0
  lines = (workdir / 'data' / 'test.jsonl').read_text().splitlines()
  return workdir, [json.loads(line) for line in lines]


@pytest.fixture(scope='module')
def other(tmp_path_factory):
  """The same of another task, kind, position, prompt length and output length."""
  workdir = tmp_path_factory.mktemp('other')
  data = write_data(workdir / 'data', 'translation')
  settings = ('prompt.kind=deep', 'prompt.position=suffix', 'prompt.length=5')
  settings += ('eval.max_new_tokens=6', 'train.epochs=1')
  given = arguments('translation', workdir, data, *settings)
  assert main.main(given) == 0
  lines = (workdir / 'data' / 'test.jsonl').read_text().splitlines()
  return workdir, [json.loads(line) for line in lines]


def _predict(workdir, source, output, *more):
  argv = ['jaxprompt', '--mode=predict', f'--workdir={workdir}', *more]
  return main.main([*argv, f'--input={source}', f'--output={output}'])


def _jsonl(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def _expected(workdir):
  rows = _jsonl(workdir / 'predictions' / 'soft.jsonl')
  return [{'id': row['id'], 'prediction': row['prediction']} for row in rows]


def test_predictions_from_any_format_are_the_evaluations(run, tmp_path):
  workdir, rows = run
  sources = [{k: v for k, v in row.items() if k != 'answers'} for row in rows]
  (tmp_path / 'in.jsonl').write_text('\n'.join(map(json.dumps, sources)))
  table = pyarrow.Table.from_pylist(sources)
  pyarrow.parquet.write_table(table, tmp_path / 'in.parquet')
  with (tmp_path / 'in.csv').open('w', newline='') as f:
    writer = csv.DictWriter(f, sources[0])
    writer.writeheader()
    writer.writerows(sources)
  for suffix in ('jsonl', 'csv', 'parquet'):
    output = tmp_path / f'{suffix}.out'
    assert _predict(workdir, tmp_path / f'in.{suffix}', output) == 0
    assert _jsonl(output) == _expected(workdir), suffix


def test_standard_input_and_output_hold_lines_alone(run, capsys, monkeypatch):
  workdir, rows = run
  monkeypatch.setattr('sys.stdin', io.StringIO('\n'.join(map(json.dumps, rows))))
  assert _predict(workdir, '-', '-') == 0
  lines = capsys.readouterr().out.splitlines()
  assert [json.loads(line) for line in lines] == _expected(workdir)


def test_a_bad_row_gets_an_error_and_the_others_are_served(run, tmp_path):
  workdir, rows = run
  lines = [json.dumps(rows[0]), '{oops', json.dumps({**rows[1], 'question': None})]
  (tmp_path / 'in.jsonl').write_text('\n'.join([*lines, json.dumps(rows[2])]))
  assert _predict(workdir, tmp_path / 'in.jsonl', tmp_path / 'out.jsonl') == 1
  first, broken, null, last = _jsonl(tmp_path / 'out.jsonl')
  assert [first, last] == [_expected(workdir)[0], _expected(workdir)[2]]
  assert broken['id'] == '1' and 'in.jsonl line 2 is not JSON' in broken['error']
  assert null['id'] == rows[1]['id'] and null.keys() == {'id', 'error'}
  assert null['error'].startswith('question is None, expected a string; the columns')


def test_a_bad_row_keeps_its_own_id(run, tmp_path):
  workdir, rows = run
  first, second = ({k: rows[i][k] for k in ('id', 'context')} for i in (0, 1))
  with (tmp_path / 'in.csv').open('w') as f:
    f.write('id,context,question,answers\n')
    f.write(f'{first["id"]},a context,"a, question",{{not JSON\n')  # not needed here
    f.write(f'{second["id"]},a context, with a comma,and a question,x\n')
  assert _predict(workdir, tmp_path / 'in.csv', tmp_path / 'out.jsonl') == 1
  good, shifted = _jsonl(tmp_path / 'out.jsonl')
  assert good['id'] == first['id'] and 'prediction' in good
  assert shifted['id'] == second['id']
  assert 'in.csv line 3 has 5 cells, the header 4; a text' in shifted['error']


def test_odd_ids_and_column_names_are_written_as_text(run, tmp_path):
  workdir, _ = run
  deep = '[' * 900 + ']' * 900
  lines = ['{"id": null}', '{"id": 7}', '{"id": {"a": [1]}}', '{"id": NaN}']
  lines += ['{"id": "\\ud800", "\\ud800": 1}', f'{{"id": "d", "context": {deep}}}']
  (tmp_path / 'in.jsonl').write_text('\n'.join(lines))
  assert _predict(workdir, tmp_path / 'in.jsonl', tmp_path / 'out.jsonl') == 1
  found = _jsonl(tmp_path / 'out.jsonl')
  ids = ['0', '7', "{'a': [1]}", 'nan', '\ufffd', 'd']
  assert [row['id'] for row in found] == ids
  assert all('\n' not in row['error'] for row in found)


def test_an_interrupted_output_is_continued_and_a_finished_one_left(run, tmp_path):
  workdir, rows = run
  (tmp_path / 'in.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  output, partial = tmp_path / 'out.jsonl', tmp_path / 'out.jsonl.partial'
  assert _predict(workdir, tmp_path / 'in.jsonl', output) == 0
  whole = output.read_text()
  # As a killed command leaves it: lines, the last one torn, and what they are made of.
  output.rename(partial)
  record = tmp_path / '.out.jsonl.jaxprompt.json'
  record.rename(tmp_path / '.out.jsonl.partial.jaxprompt.json')
  begun = json.dumps({'id': 'written', 'prediction': 'before'}) + '\n'
  partial.write_text(3 * begun + '{"id": "half')
  assert _predict(workdir, tmp_path / 'in.jsonl', output) == 0
  assert output.read_text() == 3 * begun + ''.join(whole.splitlines(True)[3:])
  assert not partial.exists()
  written = output.stat()
  for flags in ((), ('--seed=3',)):  # greedy: nothing is drawn
    assert _predict(workdir, tmp_path / 'in.jsonl', output, *flags) == 0
    assert output.stat() == written


@pytest.mark.parametrize(
  'change, message',
  [
    ({'source': 'other.jsonl'}, 'has predictions of other input; choose another --o'),
    ({'flags': ['--temperature=1']}, 'of other sampling.temperature, sampling.top_k'),
    (
      {'flags': ['--temperature=1', '--seed=3']},
      'sampling.temperature, sampling.top_k, sampling.top_p, seed; choose',
    ),
    ({'prompt': True}, 'has predictions of other model, prompt..content, prompt'),
  ],
)
def test_predictions_of_anything_else_are_not_mixed_in(
  run, other, tmp_path, capsys, change, message
):
  workdir, rows = run
  (tmp_path / 'in.jsonl').write_text('\n'.join(map(json.dumps, rows[:2])))
  (tmp_path / 'other.jsonl').write_text(json.dumps(rows[3]))
  output = tmp_path / 'out.jsonl'
  assert _predict(workdir, tmp_path / 'in.jsonl', output) == 0
  whole = output.read_text()
  given = (
    other[0] if 'prompt' in change else workdir,
    tmp_path / change.get('source', 'in.jsonl'),
    output,
    *change.get('flags', ()),
  )
  assert _predict(*given) == 2
  assert message.replace('other model, ', 'other ') in capsys.readouterr().err
  assert output.read_text() == whole
  assert _predict(*given, '--overwrite') in (0, 1)
  assert output.read_text() != whole


def test_more_rows_than_are_read_at_once_keep_their_order(run, tmp_path):
  workdir, _ = run
  rows = [{**ROWS['qa'](i % 50), 'id': str(i)} for i in range(150)]
  (tmp_path / 'in.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  assert _predict(workdir, tmp_path / 'in.jsonl', tmp_path / 'out.jsonl') == 0
  found = _jsonl(tmp_path / 'out.jsonl')
  assert [row['id'] for row in found] == [row['id'] for row in rows]
  assert found[7]['prediction'] == found[57]['prediction'] == found[107]['prediction']


def test_only_the_settings_of_generation_may_differ_from_the_runs(
  run, tmp_path, capsys
):
  workdir, rows = run
  (tmp_path / 'in.jsonl').write_text(json.dumps(rows[0]))
  given = arguments('qa', workdir, workdir / 'data', 'eval.max_new_tokens=1')
  flags = [flag for flag in given[1:] if flag.startswith('--config')]
  assert _predict(workdir, tmp_path / 'in.jsonl', tmp_path / 'out.jsonl', *flags) == 0
  flags.append('--config.prompt.length=4')
  assert _predict(workdir, tmp_path / 'in.jsonl', tmp_path / 'out2', *flags) == 2
  assert 'prompt.length is 4, was 3' in capsys.readouterr().err


@pytest.mark.parametrize(
  'source, message',
  [
    ('/nowhere.jsonl', "--input '/nowhere.jsonl' is no file; expected one"),
    ('rows.txt', "--input 'rows.txt' is of no kind that can be read"),
  ],
)
def test_an_input_that_cannot_be_read_is_named(run, tmp_path, capsys, source, message):
  workdir, _ = run
  assert _predict(workdir, source, tmp_path / 'out') == 2
  assert message in capsys.readouterr().err


def test_rows_of_different_prompts_are_each_as_in_their_own_run(run, other, tmp_path):
  (one, one_rows), (two, two_rows) = run, other
  rows, expected = [], []
  for i in range(7):
    rows += [
      {**one_rows[i], 'prompt': 'questions'},
      {**two_rows[i], 'prompt': 'german'},
    ]
    expected += [_expected(one)[i], {**_expected(two)[i], 'id': str(2 * i + 1)}]
  rows += [one_rows[0], {**one_rows[1], 'prompt': 'poems'}]
  (tmp_path / 'in.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  argv = ['jaxprompt', '--mode=predict', f'--input={tmp_path / "in.jsonl"}']
  argv += [f'--prompt=questions={one}', f'--prompt=german={two}']
  assert main.main([*argv, f'--output={tmp_path / "out.jsonl"}']) == 1
  *answers, unnamed, unknown = _jsonl(tmp_path / 'out.jsonl')
  assert answers == expected
  names = 'expected one of questions, german'
  assert unnamed['error'] == f'the column prompt is missing; {names}'
  assert unknown['error'] == f"the column prompt is 'poems'; {names}"
  # A field that a flag sets is that of all; each run keeps its others.
  output = f'--output={tmp_path / "batches.jsonl"}'
  assert main.main([*argv, '--config.eval.batch_size=3', output]) == 1
  assert _jsonl(tmp_path / 'batches.jsonl')[:-2] == expected
  # With a workdir, its own prompt is that of the rows that name none.
  output = f'--output={tmp_path / "with.jsonl"}'
  assert main.main([*argv, f'--workdir={one}', output]) == 1
  assert _jsonl(tmp_path / 'with.jsonl')[-2] == _expected(one)[0]


def test_an_adapter_and_a_run_share_a_batch(run, other, tmp_path):
  (one, one_rows), (two, two_rows) = run, other
  adapter = tmp_path / 'adapter'
  export = ['jaxprompt', '--mode=export', f'--workdir={one}', f'--output={adapter}']
  assert main.main(export) == 0
  rows = [{**one_rows[0], 'prompt': 'qa'}, two_rows[0]]
  (tmp_path / 'in.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  output = tmp_path / 'out.jsonl'
  assert _predict(two, tmp_path / 'in.jsonl', output, f'--prompt=qa={adapter}') == 0
  assert _jsonl(output)[1]['prediction'] == _expected(two)[0]['prediction']
  longer = _jsonl(output)[0]['prediction']  # the config's tokens: an adapter has none
  assert longer.startswith(_expected(one)[0]['prediction'])
  argv = ['jaxprompt', '--mode=predict', f'--prompt={adapter}']
  given = arguments('qa', one, one / 'data')
  argv += [flag for flag in given if flag.startswith('--config')]
  argv += [f'--input={tmp_path / "in.jsonl"}', f'--output={tmp_path / "alone.jsonl"}']
  assert main.main(argv) == 1
  assert _jsonl(tmp_path / 'alone.jsonl')[0] == _expected(one)[0]


def test_prompts_that_answer_together_share_batches_with_those_that_do_not(
  run, other, tmp_path
):
  (one, one_rows), (two, two_rows) = run, other
  prompts = {'qa': [one], 'qas': [one] * 3, 'german': [two], 'germans': [two] * 2}
  rows = [{**row, 'prompt': name} for row in one_rows for name in ('qa', 'qas')]
  for i, row in enumerate(two_rows):
    rows += [{**row, 'id': str(i), 'prompt': name} for name in ('german', 'germans')]
  source, output = tmp_path / 'in.jsonl', tmp_path / 'out.jsonl'
  source.write_text('\n'.join(map(json.dumps, rows)))
  # Rows of one id draw alike; their likeliest tokens would all be the same here.
  argv = ['jaxprompt', '--mode=predict', '--temperature=1.5', f'--input={source}']
  for name, paths in prompts.items():
    argv.append(f'--prompt={name}={",".join(map(str, paths))}')
  assert main.main([*argv, f'--output={output}']) == 0
  texts = {name: [] for name in prompts}
  for row, found in zip(rows, _jsonl(output), strict=True):
    texts[row['prompt']].append(found['prediction'])
  assert texts['qas'] == texts['qa'] and texts['germans'] == texts['german']
  assert len(set(texts['qa'])) > 3
  argv[-1] += f',{two}'
  assert main.main([*argv, f'--output={output}']) == 2  # it has those of other prompts


@pytest.mark.parametrize(
  'mode, paths, message',
  [
    ('predict', '{run},{other}', 'answer together differ in example.source: '),
    ('predict', '{run},', "--prompt 'all={run},' has no path; expected NAME=DIR"),
    ('export', '{run},{run}', "--prompt has 2 directories, '{run}' first, for one"),
  ],
)
def test_prompts_that_cannot_answer_together_are_named(
  run, other, tmp_path, capsys, mode, paths, message
):
  places = {'run': run[0], 'other': other[0]}
  flags = [f'--mode={mode}', f'--output={tmp_path / "out"}']
  flags += [f'--input={run[0] / "data" / "test.jsonl"}'] * (mode == 'predict')
  given = f'--prompt=all={paths.format(**places)}'
  assert main.main(['jaxprompt', *flags, given]) == 2
  assert message.format(**places) in capsys.readouterr().err


def test_what_is_drawn_depends_on_the_seed_and_the_rows_id(run, tmp_path):
  workdir, rows = run
  (tmp_path / 'in.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  (tmp_path / 'few.jsonl').write_text('\n'.join(map(json.dumps, rows[:2:-1])))
  found = {}
  for name, source, seed in (
    ('one', 'in', 1),
    ('again', 'in', 1),
    ('few', 'few', 1),
    ('other', 'in', 2),
  ):
    source, output = tmp_path / f'{source}.jsonl', tmp_path / f'{name}.out'
    drawn = ('--temperature=1.5', '--top_k=50', f'--seed={seed}')
    assert _predict(workdir, source, output, *drawn) == 0
    found[name] = _jsonl(output)
  assert found['one'] == found['again'] != found['other']
  assert found['few'] == found['one'][:2:-1]


@pytest.mark.parametrize(
  'flags, message',
  [
    (['--temperature=-1'], '--temperature is -1.0; expected a number from 1e-30 to'),
    (['--temperature=1', '--top_p=0'], '--top_p is 0.0; expected a number from 1e-30'),
    (['--top_k=5'], 'of sampling, which is off; set --temperature'),
    (['--prompt=a=x', '--prompt=a=y'], "another prompt has the name 'a'"),
    (['--prompt=a='], "--prompt 'a=' has no path"),
    (['--prompt=/nowhere'], "'/nowhere' holds no trained prompt; expected the workdir"),
  ],
)
def test_flags_that_make_no_sense_are_named(run, tmp_path, capsys, flags, message):
  workdir, rows = run
  (tmp_path / 'in.jsonl').write_text(json.dumps(rows[0]))
  assert _predict(workdir, tmp_path / 'in.jsonl', tmp_path / 'out', *flags) == 2
  assert message in capsys.readouterr().err


def test_a_prompt_that_is_not_there_is_no_adapter(tmp_path, capsys):
  argv = ['jaxprompt', '--mode=predict', '--prompt=/typo', '--input=-']
  assert main.main([*argv, f'--output={tmp_path / "out.jsonl"}']) == 2
  assert "'/typo' holds no trained prompt; expected the" in capsys.readouterr().err


def test_adapters_alone_need_a_config(tmp_path, capsys):
  (tmp_path / 'adapter_config.json').write_text('{}')
  argv = ['jaxprompt', '--mode=predict', f'--prompt={tmp_path}', '--input=-']
  assert main.main([*argv, '--output=-']) == 2
  assert '--config is missing; an adapter says nothing of' in capsys.readouterr().err
