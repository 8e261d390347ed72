"""The comparison over runs: what it groups, refuses, and names as missing."""

import json
import shutil
import types

import pytest
import workdirs
from etils import epath

from jaxprompt import errors
from jaxprompt import main
from jaxprompt.prompts import arms
from jaxprompt.report import compare
from jaxprompt.report import report
from jaxprompt.runs import results

SIZES = {'distilgpt2': 81_912_576, 'gpt2': 124_439_808, 'gpt2-medium': 354_823_168}


def _write(tmp_path, *folders):
  """Compares the folders; returns the text table's lines and the page."""
  output = epath.Path(tmp_path / 'comparison.html')
  table = compare.write([epath.Path(folder) for folder in folders], output)
  return table.splitlines(), output.read_text()


def _losses(soft):
  return {'none': 3.4, 'hard': 2.9, 'soft': soft}


def test_runs_that_differ_in_their_seed_are_one_group_with_mean_and_spread(tmp_path):
  folders = [
    workdirs.write_run(tmp_path / f'{seed}', seed=seed, losses=_losses(soft))
    for seed, soft in ((0, 2.0), (2, 2.1), (1, 2.2))
  ]
  (head, name, *lines), page = _write(tmp_path, *folders)
  assert head == 'The soft prompt beats every other arm in test loss on qa'
  assert name == 'qa, gpt2 (124M), P = 20; seeds 0, 1, 2'
  hard, soft = (
    next(x for x in lines if x.startswith(f'  {arm} ')) for arm in ('hard', 'soft')
  )
  assert '2.100 ± 0.100' in soft  # its loss
  assert '-0.800 ± 0.100  ' in hard  # soft's less it
  assert '+20.00 ± 2.500  ' in hard
  assert 'test loss is 2.100 ± 0.100, better than that of the best' in page
  assert 'best other arm by 0.800 ± 0.100' in page
  assert '100%' in page  # of the rows have the same text in two seeds
  assert 'standard deviation over seeds' in page


def test_seeds_are_told_with_their_worst_and_how_often_they_agree():
  entries = [
    {'loss': loss, 'bleu': bleu, 'ci95': {'loss': [], 'bleu': []}}
    for loss, bleu in ((1.0, 30.0), (3.0, 20.0), (2.0, 10.0))
  ]
  texts = [('a', 'b', 'c', 'd'), ('a', 'b', 'c', 'x'), ('a', 'y', 'y', 'y')]
  found = results.across_seeds(list(zip((5, 7, 9), entries, texts, strict=True)))
  assert found['seeds'] == [5, 7, 9]
  assert found['figures']['loss'] == {
    'mean': 2, 'deviation': 1, 'worst': 3, 'worst_seed': 7
  }  # fmt: skip
  assert found['figures']['bleu']['worst_seed'] == 9
  assert found['agreement'] == pytest.approx((3 / 4 + 1 / 4 + 1 / 4) / 3)


def test_a_single_run_shows_its_intervals_and_links_its_report(tmp_path):
  folder = workdirs.write_run(tmp_path / 'a run', width=0.1)
  report.write(epath.Path(folder))
  (_, _, *lines), page = _write(tmp_path, folder)
  assert any('2.100 [1.890, 2.310]' in line for line in lines)
  assert any('-0.800 [-0.900, -0.700]  better' in line for line in lines)
  assert 'href="a%20run/report.html"' in page
  assert 'runs of several sizes would show it' in page
  assert 'Each of these is one seed' in page


def test_an_undecided_lead_is_no_win(tmp_path):
  losses = {'none': 3.4, 'hard': 2.15, 'best_hard': 2.9, 'soft': 2.1}
  folders = [
    workdirs.write_run(tmp_path / 'a', losses=losses, width=0.1),
    workdirs.write_run(tmp_path / 'b', 'translation', width=0.1),
  ]
  (head, _, *lines), _ = _write(tmp_path, *folders)
  assert head == (
    'The soft prompt beats every other arm in test loss in 1 of 2 comparisons'
  )
  (hard,) = [line for line in lines if '-0.050 [-0.150, +0.050]' in line]
  assert 'undecided' in hard
  head = _write(tmp_path, folders[0])[0][0]
  assert head.startswith('In no comparison does the soft prompt beat every other arm')


def test_a_prompt_that_was_compared_with_nothing_beats_nothing(tmp_path):
  folder = workdirs.write_run(tmp_path / 'a', losses={'soft': 2.1}, width=0.1)
  head = _write(tmp_path, folder)[0][0]
  assert head.startswith('In no comparison does the soft prompt beat every other arm')


def test_a_run_that_was_measured_with_other_arms_is_no_seed_of_the_first(tmp_path):
  folders = [workdirs.write_run(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
  results = folders[1] / 'results.json'
  found = json.loads(results.read_text())
  for part in ('test', 'tuning'):
    del found[part]['hard']
  found['differences'] = [
    x for x in found['differences'] if 'hard' not in (x['arm'], x['other'])
  ]
  found['config']['arms'] = ['none', 'soft']
  results.write_text(json.dumps(found))
  lines, _ = _write(tmp_path, *folders)
  assert [line for line in lines if line.startswith('qa')] == [
    f'qa, gpt2 (124M), P = 20; seed {seed}' for seed in (0, 1)
  ]


def test_what_is_on_a_bucket_has_no_link_from_a_disk(tmp_path):
  class Report:
    exists = staticmethod(lambda: True)
    __str__ = staticmethod(lambda: 'gs://bucket/run/report.html')

  bucket = type('Bucket', (), {'__truediv__': lambda *_: Report()})()
  run = types.SimpleNamespace(workdir=bucket)
  assert compare._link(run, tmp_path / 'page.html') == ''


def test_a_setting_that_differs_names_and_splits_the_runs(tmp_path):
  folders = [
    workdirs.write_run(tmp_path / f'{length}', length=length) for length in (5, 20)
  ]
  config = folders[1] / 'config.json'
  config.write_text(
    config.read_text().replace('"learning_rate": 0.15', '"learning_rate": 0.3')
  )
  lines, page = _write(tmp_path, *folders)
  assert [line for line in lines if line.startswith('qa')] == [
    'qa, gpt2 (124M), P = 5, train.learning_rate = 0.15; seed 0',
    'qa, gpt2 (124M), P = 20, train.learning_rate = 0.3; seed 0',
  ]
  assert 'aria-label="Gain of the soft prompt by its length"' in page


def test_tasks_and_models_by_size_are_groups_and_one_plot(tmp_path):
  folders = [
    workdirs.write_run(tmp_path / f'{task}-{model}', task, model=model, parameters=size)
    for task in ('translation', 'qa', 'summarization')
    for model, size in reversed(SIZES.items())
  ]
  lines, page = _write(tmp_path, *folders)
  named = [line.partition(', P')[0] for line in lines if '; seed' in line]
  assert named[:4] == [
    'qa, distilgpt2 (81.9M)',
    'qa, gpt2 (124M)',
    'qa, gpt2-medium (355M)',
    'summarization, distilgpt2 (81.9M)',
  ]
  assert 'aria-label="Gain of the soft prompt by model size"' in page
  assert page.count('<circle') == 9


def test_what_has_not_finished_or_was_not_run_is_named(tmp_path):
  folders = [
    workdirs.write_run(tmp_path / 'a', 'qa', model='gpt2'),
    workdirs.write_run(tmp_path / 'b', 'translation', model='distilgpt2'),
    workdirs.write_run(tmp_path / 'c', finished=False),
  ]
  lines, page = _write(tmp_path, *folders)
  assert lines[-3:] == [
    f'note: {tmp_path / "c"} has no results and predictions yet',
    'note: no finished run of distilgpt2 on qa',
    'note: no finished run of gpt2 on translation',
  ]
  assert 'no finished run of gpt2 on translation' in page


def test_a_classification_is_won_by_its_metric_not_by_its_loss(tmp_path):
  folder = workdirs.write_run(tmp_path / 'a')
  path = folder / 'results.json'
  results = json.loads(path.read_text())
  results['test']['soft']['confusion'] = [[1, 0], [0, 1]]
  for found in results['differences']:
    if found['figure'] != 'loss':
      found['better'] = None
  path.write_text(json.dumps(results))
  lines, _ = _write(tmp_path, folder)
  expected = 'In no comparison does the soft prompt beat every other arm for certain'
  assert lines[0] == expected


def test_a_copy_of_a_run_is_no_other_seed(tmp_path):
  first = workdirs.write_run(tmp_path / 'a')
  copy = shutil.copytree(first, tmp_path / 'b')
  again = workdirs.write_run(tmp_path / 'c', losses=_losses(1.0))
  lines, _ = _write(tmp_path, first, copy, again)
  assert f'note: {copy} is a copy of {first}, and left out' in lines
  assert (
    f'note: {again} is the run of {first} again, no other seed, and left out' in lines
  )
  assert any(line.endswith('; seed 0') for line in lines)


def test_runs_of_one_task_on_different_test_rows_are_refused(tmp_path):
  folders = [
    workdirs.write_run(tmp_path / 'a', rows=30),
    workdirs.write_run(tmp_path / 'b', rows=31),
  ]
  with pytest.raises(errors.UserError, match='tested on different rows'):
    _write(tmp_path, *folders)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--output=page.html'], 'names no workdir; expected DIR DIR ...'),
    (['--output=page.html', '.'], "'.' has no config.json"),
    (['--output=page.html', 'unfinished'], 'there is nothing to compare'),
    (['--output=missing/page.html', 'run'], 'missing/page.html cannot be written'),
    (['run'], '--output is missing'),
  ],
)
def test_a_comparison_that_cannot_be_made_is_one_line_with_status_2(
  tmp_path, capsys, monkeypatch, arguments, message
):
  monkeypatch.chdir(tmp_path)
  workdirs.write_run(tmp_path / 'run')
  workdirs.write_run(tmp_path / 'unfinished', finished=False)
  assert main.main(['jaxprompt', '--mode=compare', *arguments]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert message in line.replace(f'{tmp_path}/', '').replace(str(tmp_path), '.')
  assert not (tmp_path / 'page.html').exists()


@pytest.mark.parametrize('width', [390, 1200])
def test_the_page_shows_all_columns_on_a_screen_and_a_phone(
  tmp_path, visit, capsys, width
):
  losses = dict(zip(arms.ARMS, (3.4, 2.9, 2.5, 2.6, 2.7, 2.1), strict=True))
  folders = [
    workdirs.write_run(
      tmp_path / (40 * 'long') / model, model=model, parameters=size, losses=losses
    )
    for model, size in SIZES.items()
  ]
  output = tmp_path / 'page.html'
  arguments = ['--mode=compare', *map(str, folders), f'--output={output}']
  assert main.main(['jaxprompt', *arguments]) == 0
  assert capsys.readouterr().out.endswith(f'comparison: {output}\n')
  page = visit(output.as_uri(), viewport={'width': width, 'height': 844})
  assert page.get_by_role('heading', name='The soft prompt beats every').is_visible()
  assert page.get_by_role('img', name='qa, Loss').first.is_visible()
  assert page.get_by_role('img', name='Gain of the soft prompt').is_visible()
  assert page.evaluate('document.documentElement.scrollWidth') == width
  assert page.evaluate("""() => [...document.querySelectorAll('.scroll')].every(
    (card) => card.scrollWidth <= card.clientWidth)""")
