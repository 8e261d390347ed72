"""The comparison over runs: what it groups, refuses, and names as missing."""

import shutil

import pytest
import workdirs
from etils import epath

from jaxprompt import errors
from jaxprompt import main
from jaxprompt.report import compare

SIZES = {'distilgpt2': 81_912_576, 'gpt2': 124_439_808, 'gpt2-medium': 354_823_168}


def _write(tmp_path, *folders):
  """Compares the folders; returns the text table's lines and the page."""
  output = epath.Path(tmp_path / 'comparison.html')
  table = compare.write([epath.Path(folder) for folder in folders], output)
  return table.splitlines(), output.read_text()


def _losses(soft):
  return {'none': 3.4, 'hard': 2.9, 'soft': soft}


def test_runs_that_differ_in_their_seed_are_one_line_with_mean_and_spread(tmp_path):
  folders = [
    workdirs.write_run(tmp_path / f'{seed}', seed=seed, losses=_losses(soft))
    for seed, soft in ((0, 2.0), (1, 2.2), (2, 2.1))
  ]
  (_, line), page = _write(tmp_path, *folders)
  assert '0, 1, 2' in line
  assert '2.100 ± 0.100' in line  # soft's loss
  assert '0.800 ± 0.100' in line  # its gain
  assert 'standard deviation over seeds' in page


def test_a_single_run_shows_its_intervals(tmp_path):
  (_, line), page = _write(tmp_path, workdirs.write_run(tmp_path / 'a', width=0.1))
  assert '2.100 [1.890, 2.310]' in line
  assert '0.800 ' in line
  assert 'runs of several sizes would show it' in page


def test_a_setting_that_differs_gets_a_column_and_splits_the_runs(tmp_path):
  folders = [
    workdirs.write_run(tmp_path / f'{length}', length=length) for length in (5, 20)
  ]
  config = folders[1] / 'config.json'
  config.write_text(
    config.read_text().replace('"learning_rate": 0.05', '"learning_rate": 0.3')
  )
  (head, first, second), _ = _write(tmp_path, *folders)
  assert 'train.learning_rate' in head
  assert first.split()[3:5] == ['5', '0.05']
  assert second.split()[3:5] == ['20', '0.3']


def test_tasks_by_arms_and_models_by_size_are_one_table_and_one_plot(tmp_path):
  folders = [
    workdirs.write_run(tmp_path / f'{task}-{model}', task, model=model, parameters=size)
    for task in ('translation', 'qa', 'summarization')
    for model, size in reversed(SIZES.items())
  ]
  (head, *lines), page = _write(tmp_path, *folders)
  assert head.split()[:4] == ['task', 'model', 'parameters', 'P']
  assert [line.split()[:3] for line in lines[:4]] == [
    ['qa', 'distilgpt2', '81.9M'],
    ['qa', 'gpt2', '124M'],
    ['qa', 'gpt2-medium', '355M'],
    ['summarization', 'distilgpt2', '81.9M'],
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


def test_a_copy_of_a_run_is_no_other_seed(tmp_path):
  first = workdirs.write_run(tmp_path / 'a')
  copy = shutil.copytree(first, tmp_path / 'b')
  again = workdirs.write_run(tmp_path / 'c', losses=_losses(1.0))
  lines, _ = _write(tmp_path, first, copy, again)
  assert f'note: {copy} is a copy of {first}, and left out' in lines
  assert f'note: {again} is the run of {first} again, no other seed' in lines


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


def test_the_page_opens_in_a_browser_and_fits_a_phone(tmp_path, visit, capsys):
  folders = [
    workdirs.write_run(tmp_path / (40 * 'long') / model, model=model, parameters=size)
    for model, size in SIZES.items()
  ]
  output = tmp_path / 'page.html'
  arguments = ['--mode=compare', *map(str, folders), f'--output={output}']
  assert main.main(['jaxprompt', *arguments]) == 0
  assert capsys.readouterr().out.endswith(f'comparison: {output}\n')
  page = visit(output.as_uri(), viewport={'width': 390, 'height': 844})
  assert page.get_by_role('heading', name='Comparison of 3 runs').is_visible()
  assert page.get_by_role('img', name='Gain of the soft prompt').is_visible()
  assert page.evaluate('document.documentElement.scrollWidth') == 390
