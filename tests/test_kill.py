"""A run that is stopped again and again ends as one that never was."""

import json
import pathlib
import re
import signal

import jax
import kills
import numpy as np
import pytest
from conftest import arguments
from conftest import write_data

from jaxprompt.runs import workdir as workdir_lib
from jaxprompt.training import checkpoint


def _arguments(data, workdir):
  settings = ('train.epochs=10', 'checkpoint.every_steps=2', 'data.test_size=3')
  return arguments('qa', workdir, data, *settings)


def _stopped(cause, name, data, workdir):
  """Stops a run where it is about to write a file of this name, a pattern."""
  pattern = f'{re.escape(str(workdir))}/{name}'
  log = workdir.with_name(f'{workdir.name}.log')
  return kills.stop_at_path(cause, pattern, _arguments(data, workdir), log)


def _finish(data, workdir):
  status, log = _stopped('SIGKILL', 'no such file', data, workdir)
  assert status == 0, log
  return log


def _scalars(workdir):
  lines = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  return [{k: v for k, v in line.items() if 'second' not in k} for line in lines]


def _steps_saved(workdir):
  names = [path.name for path in (workdir / 'checkpoints').glob('*')]
  return [int(name) for name in names if name.isdigit()]


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
  """The data, and the workdir of a run that was left alone."""
  root = tmp_path_factory.mktemp('kill')
  data = write_data(root / 'data', 'qa', (12, 5, 3))
  _finish(data, root / 'unbroken')
  return data, root / 'unbroken'


def _assert_same(workdir, other):
  assert _scalars(workdir) == _scalars(other)
  prompts = [
    checkpoint.read_best(workdir_lib.open_workdir(path) / 'checkpoints')[0]
    for path in (workdir, other)
  ]
  jax.tree.map(np.testing.assert_array_equal, *prompts)
  results = [json.loads((p / 'results.json').read_text()) for p in (workdir, other)]
  assert results[0]['test'] == results[1]['test']
  assert results[0]['best_epoch'] == results[1]['best_epoch']


def test_killed_at_several_points_it_ends_the_same_bit_for_bit(unbroken, tmp_path):
  data, expected = unbroken
  # What it is about to write, and the newest checkpoint that is there by then.
  points = {
    r'\.config\.json': 0,
    r'metrics\.jsonl': 0,
    r'checkpoints/2\..*/state': 0,
    r'checkpoints/4$': 3,  # the epoch's end
    r'checkpoints/16\..*/_CHECKPOINT_METADATA': 15,
    r'checkpoints/30\..*/commit_success': 28,
    r'predictions/soft\.jsonl': 30,
    r'\.results\.json': 30,
  }
  before = 0
  for name, saved in points.items():
    status, log = _stopped('SIGKILL', name, data, tmp_path)
    assert status == -signal.SIGKILL, (name, log)
    assert (f'going on after step {before}' in log) == (before > 0), (name, log)
    assert max(_steps_saved(tmp_path), default=0) == saved, name
    assert not (tmp_path / 'results.json').exists(), name
    before = saved
  assert 'going on after step 30' in _finish(data, tmp_path)
  _assert_same(tmp_path, expected)


def test_asked_to_end_it_saves_first_and_goes_on_from_there(unbroken, tmp_path):
  data, expected = unbroken
  status, log = _stopped('SIGTERM', r'checkpoints/4$', data, tmp_path)
  assert status == 128 + signal.SIGTERM
  saved = max(_steps_saved(tmp_path))
  assert f'asked to end: saved step {saved}' in log
  assert f'going on after step {saved}' in _finish(data, tmp_path)
  _assert_same(tmp_path, expected)


def test_files_that_a_run_left_half_written_are_not_trusted(unbroken, tmp_path):
  data, expected = unbroken
  _stopped('SIGKILL', r'checkpoints/6$', data, tmp_path)
  with (tmp_path / 'metrics.jsonl').open('a') as f:
    f.write('{"step": 9, "train_lo')
  newest = pathlib.Path(tmp_path / 'checkpoints' / str(max(_steps_saved(tmp_path))))
  for path in newest.rglob('*'):
    if path.is_file():
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  log = _finish(data, tmp_path)
  assert 'is damaged' in log
  _assert_same(tmp_path, expected)


def test_a_checkpoint_that_finds_no_room_ends_the_run_in_a_line(unbroken, tmp_path):
  data, expected = unbroken
  for name in (r'checkpoints/4\.', r'checkpoints/8\..*/state', r'checkpoints/16$'):
    status, log = _stopped('ENOSPC', name, data, tmp_path)
    assert status == 2, (name, log)
    last = log.splitlines()[-1]
    assert 'checkpoints cannot be written: [Errno 28] No space left' in last, name
  _finish(data, tmp_path)
  _assert_same(tmp_path, expected)
