"""Whatever is killed at any moment leaves every file whole or absent, and goes on.

A hundred kills; `test_kill` has those at chosen points.
"""

import json
import shutil

import jax
import kills
import numpy as np
import pytest
from conftest import ROWS
from conftest import arguments
from conftest import write_data
from etils import epath

from jaxprompt import config as config_lib
from jaxprompt import main
from jaxprompt.prompts import exported
from jaxprompt.prompts import peft
from jaxprompt.runs import records
from jaxprompt.training import checkpoint


def test_an_export_killed_at_any_moment_leaves_a_whole_adapter_or_none(tmp_path):
  adapter = tmp_path / 'adapter'
  found = []

  def check(has_ended):
    assert not has_ended
    found.append(adapter.exists())
    if adapter.exists():
      contents = {file.name: file.read_bytes() for file in adapter.iterdir()}
      assert contents == kills.adapter(contents[peft.WEIGHTS][0])

  args = (str(adapter),)
  kills.kill_at_random(kills.export, args, check, times=60, seconds=0.1)
  assert any(found)
  exported.write(adapter, kills.adapter(7))
  assert {file.name for file in tmp_path.iterdir()} == {'adapter'}
  contents = {file.name: file.read_bytes() for file in adapter.iterdir()}
  assert contents == kills.adapter(7)


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
  """A workdir of a run that was left alone, and the arguments for another."""
  root = tmp_path_factory.mktemp('unbroken')
  folder = write_data(root / 'data', 'qa', (12, 5, 3))
  settings = ('train.epochs=4', 'checkpoint.every_steps=1', 'data.test_size=3')

  def argv(workdir, *more):
    return arguments('qa', workdir, folder, *settings, *more)

  assert main.main(argv(root / 'run')) == 0
  return root / 'run', argv


def test_a_prediction_killed_at_any_moment_ends_as_if_it_had_not_been(
  unbroken, tmp_path
):
  workdir, _ = unbroken
  rows = tmp_path / 'rows.jsonl'
  rows.write_text(''.join(json.dumps(ROWS['qa'](i)) + '\n' for i in range(120)))
  flags = ('--mode=predict', f'--workdir={workdir}', '--config.eval.batch_size=1')
  argv = ['jaxprompt', *flags, f'--input={rows}']
  whole = ('infer.predict.predict', [*argv, f'--output={tmp_path / "expected"}'])
  seconds = kills.lasting(kills.command, whole)
  expected, out = (tmp_path / 'expected').read_bytes(), tmp_path / 'out'
  partial = set()

  def check(has_ended):
    assert out.exists() or not has_ended
    if out.exists():
      assert out.read_bytes() == expected
      out.unlink()
    elif (partly := tmp_path / 'out.partial').exists():
      lines = partly.read_bytes()
      assert expected.startswith(lines)
      partial.add(len(lines))

  args = ('infer.predict.predict', [*argv, f'--output={out}'])
  kills.kill_at_random(kills.command, args, check, times=20, seconds=seconds)
  assert len(partial) > 3
  assert main.main(args[-1]) == 0
  assert out.read_bytes() == expected


KEEP = config_lib.FIELDS['checkpoint.keep'].default


def _check_run(workdir):
  """Checks every file that a run has left; returns the steps of its checkpoints."""
  known = ('.lock', 'config.json', 'metrics.jsonl', 'results.json', 'report.html')
  known += ('checkpoints', 'predictions', 'tensorboard', 'wordings.jsonl')
  for path in workdir.iterdir():
    assert path.name in known or path.name.endswith('.partial')
  records.read_config(workdir)
  records.read_results(workdir)
  records.read_metrics(workdir)
  for arm in ('none', 'hard', 'soft'):
    text = workdir / 'predictions' / f'{arm}.jsonl'
    assert not text.exists() or text.read_text().endswith('\n')
    records.read_predictions(workdir, arm)
  page = workdir / 'report.html'
  assert not page.exists() or '</html>' in page.read_text()
  directory = epath.Path(workdir / 'checkpoints')
  steps = sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())
  for step in steps[-KEEP:]:  # one before these is deleted, which a kill may interrupt
    assert checkpoint._read(directory / str(step))
  return steps


def _scalars(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [
    {name: x for name, x in json.loads(line).items() if 'second' not in name}
    for line in lines
  ]


def _check_same(*workdirs):
  """Checks that two runs have trained the same prompt, bit for bit."""
  scalars, other_scalars = map(_scalars, workdirs)
  assert scalars == other_scalars
  workdirs = list(map(epath.Path, workdirs))
  prompts = [checkpoint.read_best(path / 'checkpoints')[0] for path in workdirs]
  jax.tree.map(np.testing.assert_array_equal, *prompts)
  test, other_test = (records.read_results(path)['test'] for path in workdirs)
  assert test == other_test


@pytest.mark.parametrize(
  'kind, optimizer', [('deep', 'adafactor'), ('residual', 'prodigy')]
)
def test_training_of_any_kind_goes_on_after_a_kill_bit_for_bit(
  unbroken, tmp_path, kind, optimizer
):
  _, argv = unbroken
  settings = (f'prompt.kind={kind}', f'train.optimizer={optimizer}')
  whole, killed = tmp_path / 'whole', epath.Path(tmp_path / 'killed')
  assert main.main(argv(whole, *settings)) == 0

  def check(has_ended):
    assert not has_ended and _check_run(killed)  # some of its steps are saved

  args = ('training.loop.Trainer._end_epoch', argv(killed, *settings))
  kills.kill_at_random(kills.command, args, check, times=1, seconds=0.2)
  assert main.main(args[-1]) == 0
  _check_same(killed, whole)


def test_training_killed_at_any_moment_ends_as_if_it_had_not_been(unbroken, tmp_path):
  expected, argv = unbroken
  workdir = epath.Path(tmp_path / 'run')
  steps = set()

  def check(has_ended):
    steps.update(_check_run(workdir))
    if has_ended:
      _check_same(workdir, expected)
      shutil.rmtree(workdir)

  begins = 'training.loop.Trainer.run'
  seconds = kills.lasting(kills.command, (begins, argv(tmp_path / 'whole')))
  args = (begins, argv(workdir))
  kills.kill_at_random(kills.command, args, check, times=20, seconds=seconds)
  assert len(steps) > 3
  assert main.main(argv(workdir)) == 0
  _check_same(workdir, expected)
