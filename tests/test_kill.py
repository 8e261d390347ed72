"""A run that is killed again and again ends as one that never was."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import arguments
from conftest import write_data

from jaxprompt.runs import workdir as workdir_lib
from jaxprompt.training import checkpoint

SECONDS = 120


def _start(data, workdir):
  argv = arguments(
    'qa',
    workdir,
    data,
    'train.epochs=10',
    'checkpoint.every_steps=2',
    'data.test_size=3',
  )
  return subprocess.Popen(
    [sys.executable, '-m', 'jaxprompt.main', *argv[1:]],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def _signal_when(condition, process, sent):
  """Sends a signal as soon as the condition holds; returns the status and the log."""
  deadline = time.monotonic() + SECONDS
  while not condition():
    assert process.poll() is None, process.stderr.read()
    assert time.monotonic() < deadline
    time.sleep(0.002)
  process.send_signal(sent)
  _, log = process.communicate(timeout=SECONDS)
  return process.returncode, log


def _finish(process):
  _, log = process.communicate(timeout=SECONDS)
  assert process.returncode == 0, log
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
  _finish(_start(data, root / 'unbroken'))
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
  checkpoints = tmp_path / 'checkpoints'
  points = {
    'before the first checkpoint': lambda: (tmp_path / 'metrics.jsonl').exists(),
    'in the first epoch': lambda: _steps_saved(tmp_path),
    'while a checkpoint is written': lambda: any(checkpoints.glob('*tmp*')),
    'in the middle': lambda: max(_steps_saved(tmp_path), default=0) >= 14,
    'in the last epoch': lambda: max(_steps_saved(tmp_path), default=0) >= 28,
    'while the arms are compared': (tmp_path / 'predictions' / 'none.jsonl').exists,
  }
  for point, condition in points.items():
    status, log = _signal_when(condition, _start(data, tmp_path), signal.SIGKILL)
    assert status == -signal.SIGKILL, (point, log)
    assert not (tmp_path / 'results.json').exists(), point
  assert 'going on after step 30' in _finish(_start(data, tmp_path))
  _assert_same(tmp_path, expected)


def test_asked_to_end_it_saves_first_and_goes_on_from_there(unbroken, tmp_path):
  data, expected = unbroken
  status, log = _signal_when(
    lambda: _steps_saved(tmp_path), _start(data, tmp_path), signal.SIGTERM
  )
  assert status == 128 + signal.SIGTERM
  saved = max(_steps_saved(tmp_path))
  assert f'asked to end: saved step {saved}' in log
  assert f'going on after step {saved}' in _finish(_start(data, tmp_path))
  _assert_same(tmp_path, expected)


def test_files_that_a_run_left_half_written_are_not_trusted(unbroken, tmp_path):
  data, expected = unbroken
  _signal_when(lambda: _steps_saved(tmp_path), _start(data, tmp_path), signal.SIGKILL)
  with (tmp_path / 'metrics.jsonl').open('a') as f:
    f.write('{"step": 9, "train_lo')
  newest = pathlib.Path(tmp_path / 'checkpoints' / str(max(_steps_saved(tmp_path))))
  for path in newest.rglob('*'):
    if path.is_file():
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  log = _finish(_start(data, tmp_path))
  assert 'is damaged' in log
  _assert_same(tmp_path, expected)
