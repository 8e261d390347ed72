"""A task that the package has never seen, from flags alone, through every mode."""

import csv
import json
import re

import pytest
from conftest import CHECKPOINT
from etils import epath

from jaxprompt import config as config_lib
from jaxprompt import main
from jaxprompt import serve
from jaxprompt.infer import answering
from jaxprompt.runs import records

LABELS = ['it can wait', 'soon', 'at once']
ARMS = ('none', 'hard', 'soft')
SETTINGS = {
  'task': 'tickets',
  'example.source': r'Ticket of {customer.name}:\n{ticket}',
  'example.cut': 'ticket',
  'example.target': '{urgency}',
  'example.labels': ','.join(LABELS),
  'metrics': 'accuracy,macro_f1,matthews',
  'model.path': CHECKPOINT,
  'data.max_source_tokens': 40,
  'data.max_target_tokens': 12,
  'eval.max_new_tokens': 12,
  'eval.batch_size': 8,
  'eval.calibration': 'content_free',
  'prompt.length': 3,
  'train.batch_size': 8,
  'train.epochs': 1,
}


def _row(i):
  return {
    'ticket': f'The lamp number {i} is broken. ' * (1 + i % 9),
    'urgency': [LABELS[i % 3], i % 3][i % 2],
    'customer': repr({'name': f'Ms {i}'}),
  }


def _call(*flags):
  return main.main(['jaxprompt', *map(str, flags)])


def _config(data, **settings):
  fields = SETTINGS | {'data.path': data} | settings
  return ['--config=text', *(f'--config.{name}={x}' for name, x in fields.items())]


@pytest.fixture(scope='module')
def tickets(tmp_path_factory):
  """One CSV file of forty rows, whose cells hold what Python's `repr` writes."""
  file = tmp_path_factory.mktemp('data') / 'tickets.csv'
  with file.open('w', newline='') as f:
    writer = csv.DictWriter(f, ['ticket', 'urgency', 'customer'])
    writer.writeheader()
    writer.writerows(map(_row, range(40)))
  return file


@pytest.fixture(scope='module')
def workdir(tickets, tmp_path_factory):
  folder = tmp_path_factory.mktemp('runs') / 'tickets'
  assert _call(*_config(tickets), f'--workdir={folder}') == 0
  return folder


def _lines(file):
  return [json.loads(line) for line in file.read_text().splitlines()]


def test_it_is_trained_and_measured_with_its_own_metrics(workdir):
  found = json.loads((workdir / 'results.json').read_text())
  assert found['task'] == 'tickets'
  assert found['config']['hard_prompt'].startswith(
    'Classify the following text as it c'
  )
  assert found['data']['train']['rows'] == 32
  assert found['data']['train']['sources_cut'] > 0
  for arm in ('none', 'hard', 'soft'):
    entry = found['test'][arm]
    assert entry['ci95'].keys() == {'loss', 'accuracy', 'macro_f1', 'matthews'}
    counts = entry['confusion']
    right = sum(counts[i][i] for i in range(3))
    assert entry['accuracy'] == pytest.approx(100 * right / entry['examples'])
  assert {x['figure'] for x in found['differences']} == set(entry['ci95'])


def test_labels_that_are_ranked_take_no_room_of_text_that_would_be_generated(
  tickets, tmp_path
):
  """Positions that a generated answer would fill, and the sources could not be in."""
  flags = [*_config(tickets), f'--workdir={tmp_path / "run"}']
  flags += ['--config.eval.max_new_tokens=250', '--config.arms=few_shot,soft']
  assert _call(*flags, '--config.few_shot.examples=2') == 0
  found = json.loads((tmp_path / 'run' / 'results.json').read_text())
  assert found['tuning']['few_shot']['rows'] == 2
  source = ['--mode=predict', f'--workdir={tmp_path / "run"}', f'--input={tickets}']
  assert _call(*source, f'--output={tmp_path / "out.jsonl"}') == 0
  drawn = f'--output={tmp_path / "drawn.jsonl"}'
  assert _call(*source, '--temperature=1', drawn) == 2  # nothing is drawn


@pytest.mark.parametrize('form', ['peft', 'embeddings'])
def test_its_export_says_that_labels_are_ranked(workdir, tmp_path, form):
  output = tmp_path / form
  flags = [f'--workdir={workdir}', f'--output={output}', f'--format={form}']
  assert _call('--mode=export', *flags) == 0
  if form == 'peft':
    card = (output / 'README.md').read_text()
    assert 'ranked, not generated: `it can wait`, `soon`, `at once`' in card
  else:
    use = json.loads((output / 'prompt.json').read_text())
    assert (use['labels'], use['calibration']) == (LABELS, 'content_free')


def test_columns_of_other_names_are_told_where_to_name_them(tmp_path, capsys):
  rows = [{'document': 'Anna sells bread.', 'summary': 'Bread.'}] * 9
  file = tmp_path / 'rows.jsonl'
  file.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  flags = ['--config=summarization:tiny', f'--config.data.path={file}']
  assert _call(*flags, f'--workdir={tmp_path / "run"}') == 2
  told = "column 'article' is missing; found 'document', 'summary': example.source"
  assert told in capsys.readouterr().err


def test_a_rows_answer_is_its_likeliest_label(workdir):
  for row in _lines(workdir / 'predictions' / 'soft.jsonl'):
    assert row['source'].startswith('Ticket of Ms ')
    likely = {text: x['log_likelihood'] for text, x in row['labels'].items()}
    assert list(likely) == LABELS
    assert row['prediction'] == max(likely, key=likely.get)
    assert sum(x['probability'] for x in row['labels'].values()) == pytest.approx(1)
    assert row['scores']['accuracy'] == 100 * (row['prediction'] == row['target'])


def test_a_prediction_has_every_labels_probability(workdir, tmp_path):
  rows = [_row(i) for i in range(5)]
  source, output = tmp_path / 'in.jsonl', tmp_path / 'out.jsonl'
  rows[3] = {'ticket': 'no name'}
  source.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  flags = [f'--workdir={workdir}', f'--input={source}', f'--output={output}']
  assert _call('--mode=predict', *flags) == 1
  found = _lines(output)
  together = tmp_path / 'together.jsonl'
  flags = [f'--prompt={workdir},{workdir}', f'--input={source}', f'--output={together}']
  assert _call('--mode=predict', *flags) == 1
  assert _lines(together)[:3] == [
    {**each, 'scores': pytest.approx(each['scores'], rel=1e-5)} for each in found[:3]
  ]
  assert "column 'customer' is missing" in found[3].pop('error')
  for i in (0, 1, 2, 4):
    assert list(found[i]['scores']) == LABELS
    best = max(found[i]['scores'], key=found[i]['scores'].get)
    assert found[i]['prediction'] == best


def test_its_report_and_comparison_show_its_metrics(workdir, tmp_path):
  assert _call('--mode=report', f'--workdir={workdir}') == 0
  page = (workdir / 'report.html').read_text()
  for words in ('Accuracy', 'Macro F1', 'Which label was predicted for which', *LABELS):
    assert words in page
  output = tmp_path / 'compare.html'
  assert _call('--mode=compare', workdir, f'--output={output}') == 0
  assert 'tickets' in output.read_text()


def test_the_served_page_ranks_its_labels_as_the_run_did(workdir):
  config = config_lib.complete(records.read_config(epath.Path(workdir))['config'], '')
  model, prompts = serve._load(config, epath.Path(workdir), {})
  ((_, choice),) = prompts.items()
  rows = {arm: _lines(workdir / 'predictions' / f'{arm}.jsonl')[0] for arm in ARMS}
  source = rows['soft']['source']
  *_, (_, answers) = answering.answer(model, choice, source, config.hard_prompt)
  for arm, row in rows.items():
    expected = {text: x['probability'] for text, x in row['labels'].items()}
    assert answers[arm].shares == pytest.approx(expected, rel=1e-4), arm
  assert answers['hard'].shares.keys() == answers['none'].shares.keys() == set(LABELS)
  shown = serve._show(model, choice.arms, '', answers)[
    1 + 2 * list(answers).index('soft')
  ]
  assert shown.startswith(f'{row["prediction"]} ')


def test_it_is_swept_and_exported(workdir, tickets, tmp_path):
  sweep = ['--mode=sweep', f'--workdir={tmp_path / "sweep"}']
  assert _call(*_config(tickets), *sweep, '--config.sweep.seed=0,1') == 0
  assert len(json.loads((tmp_path / 'sweep' / 'sweep.json').read_text())['runs']) == 2
  flags = [f'--workdir={workdir}', f'--output={tmp_path / "adapter"}']
  assert _call('--mode=export', *flags) == 0
  card = (tmp_path / 'adapter' / 'README.md').read_text()
  assert re.search(r'Ticket of \{customer.name\}', card)
  flags = [f'--workdir={workdir}', f'--output={tmp_path / "merged"}']
  assert _call('--mode=export', '--format=merged', *flags) == 0
  card = (tmp_path / 'merged' / 'README.md').read_text()
  named = ', '.join(f'`{label}`' for label in LABELS)
  assert f'ranked, not generated: {named}.' in card


def test_a_column_that_is_not_there_is_named_with_those_that_are(
  tickets, tmp_path, capsys
):
  flags = _config(tickets, **{'example.source': '{body}', 'example.cut': ''})
  assert _call(*flags, f'--workdir={tmp_path / "none"}') == 2
  error = capsys.readouterr().err
  assert 'tickets.csv line 2' in error
  assert "column 'body' is missing; found 'ticket', 'urgency', 'customer'" in error
