"""Several processes: the results of one, one checkpoint for all, and no hanging."""

import json
import os
import signal
import socket
import subprocess
import sys

import kills
import numpy as np
import pytest
from conftest import ROWS
from conftest import arguments
from conftest import with_devices
from conftest import write_data

from jaxprompt import main
from jaxprompt.devices import processes as processes_lib
from jaxprompt.runs import workdir as workdir_lib
from jaxprompt.training import checkpoint

SECONDS = 300  # until it is a hang; a busy machine compiles slowly
SETTINGS = ('train.epochs=9', 'checkpoint.every_steps=2', 'train.learning_rate=0.01')


def _start(commands):
  """Starts processes of one run that have two devices each."""
  with socket.create_server(('127.0.0.1', 0)) as server:
    port = server.getsockname()[1]
  shared = {
    **with_devices(2),
    'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
    'JAX_NUM_PROCESSES': str(len(commands)),
  }
  return [
    subprocess.Popen(
      command,
      env={**os.environ, **shared, 'JAX_PROCESS_ID': str(i)},
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i, command in enumerate(commands)
  ]


def _distributed(argv):
  return [sys.executable, '-m', 'jaxprompt.main', *argv[1:], '--distributed']


def _arguments(data, workdir, *overrides):
  return arguments('qa', workdir, data, *SETTINGS, *overrides)


def _command(data, workdir, *overrides):
  return _distributed(_arguments(data, workdir, *overrides))


def _signalled(sent, data, workdir):
  """Returns the command of a process that gets a signal when checkpoints are there."""
  argv = [*_arguments(data, workdir), '--distributed']
  return kills.signalled_at_step(sent, 8, argv)


def _end(processes):
  """Returns each process's status and what it said."""
  ends = []
  for process in processes:
    _, log = process.communicate(timeout=SECONDS)
    ends.append((process.returncode, log))
  return ends


def _finish(processes):
  for status, log in _end(processes):
    assert status == 0, log


def _steps_saved(workdir):
  names = [path.name for path in (workdir / 'checkpoints').glob('*')]
  return [int(name) for name in names if name.isdigit()]


def _found(workdir):
  """Returns what a run has found: prompt, losses step by step, results."""
  path = workdir_lib.resolve(workdir) / 'checkpoints'
  lines = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  losses = [(line['step'], line.get('train_loss')) for line in lines]
  return (
    np.concatenate([x.ravel() for x in checkpoint.read_best(path)[0].values()]),
    losses,
    json.loads((workdir / 'results.json').read_text())['test'],
  )


def _assert_same(workdir, other):
  (prompt, *rest), (other_prompt, *other_rest) = _found(workdir), _found(other)
  np.testing.assert_array_equal(prompt, other_prompt)
  assert rest == other_rest


def _assert_close(workdir, other):
  (prompt, losses, test), (other_prompt, other_losses, other_test) = (
    _found(workdir),
    _found(other),
  )
  np.testing.assert_allclose(prompt, other_prompt, rtol=0, atol=1e-6)
  assert [step for step, _ in losses] == [step for step, _ in other_losses]
  test, other_test = map(workdir_lib.flatten, (test, other_test))
  for name, value in test.items():
    assert value == pytest.approx(other_test[name], rel=1e-6), name


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  """The data, and the workdir of a run by two processes with two devices each."""
  root = tmp_path_factory.mktemp('processes')
  data = write_data(root / 'data', 'qa', (11, 5, 3))
  _finish(_start([_command(data, root / 'two')] * 2))
  return data, root / 'two'


def test_two_processes_find_what_one_finds(two, tmp_path):
  data, workdir = two
  assert main.main(arguments('qa', tmp_path, data, *SETTINGS)) == 0
  _assert_close(workdir, tmp_path)


@pytest.mark.parametrize('kind, shared', [('deep', 1), ('residual', 4)])
def test_two_processes_find_what_one_finds_with_a_suffix_and_kept_contexts(
  two, tmp_path, kind, shared
):
  data, _ = two
  settings = (f'prompt.kind={kind}', 'prompt.position=suffix', 'train.epochs=2')
  own = _command(data, tmp_path / 'two', *settings, f'parallel.model={shared}')
  _finish(_start([own] * 2))
  one = tmp_path / 'one'
  assert main.main(arguments('qa', one, data, *SETTINGS, *settings)) == 0
  _assert_close(tmp_path / 'two', one)


def test_two_processes_predict_in_order_and_go_on_where_one_was_stopped(two, tmp_path):
  _, workdir = two
  # More rows than are read at once, and one that cannot be used.
  rows = [json.dumps(ROWS['qa'](i)) for i in range(70)]
  source, output = tmp_path / 'in.jsonl', tmp_path / 'out.jsonl'
  source.write_text('\n'.join([*rows, '{oops']))
  argv = [
    'jaxprompt',
    '--mode=predict',
    f'--workdir={workdir}',
    f'--input={source}',
    f'--output={output}',
    '--temperature=1',
  ]
  assert main.main(argv) == 1
  whole = output.read_text()
  # As a killed command leaves it.
  output.rename(tmp_path / 'out.jsonl.partial').write_text(whole[:1000])
  record = tmp_path / '.out.jsonl.jaxprompt.json'
  record.rename(tmp_path / '.out.jsonl.partial.jaxprompt.json')
  ends = _end(_start([_distributed(argv)] * 2))
  assert [status for status, _ in ends] == [1, 1], ends
  assert ', rows there: ' in ends[0][1] and ' rows ' not in ends[1][1]
  assert output.read_text() == whole


def test_two_processes_sweep_as_one_does(two, tmp_path):
  data, _ = two
  settings = ('sweep.seed=0,1', 'sweep.learning_rate=0.01,1e30', 'sweep.test=all')
  found = {}
  for name in ('one', 'two'):
    argv = arguments('qa', tmp_path / name, data, *settings, mode='sweep')
    if name == 'one':
      assert main.main(argv) == 0
    else:
      _finish(_start([_distributed(argv)] * 2))
    found[name] = json.loads((tmp_path / name / 'sweep.json').read_text())
  one, two = found['one'], found['two']
  assert one['best'] == two['best']
  for own, other in zip(one['runs'], two['runs'], strict=True):
    assert own['diverged'] == other['diverged']
    if not own['diverged']:
      assert own['validation_loss'] == pytest.approx(other['validation_loss'], 1e-6)
      number = str(own['run'])
      _assert_close(*(tmp_path / name / 'runs' / number for name in ('two', 'one')))


_APART = """
import jax
import numpy as np
from jaxprompt.devices import devices
from jaxprompt.devices import processes

processes.start()
rows, apart = 10.0 * np.arange(8), np.reshape(jax.devices(), (2, 2)).T.ravel()
for mode in devices.MODES:
  layout = devices.layout(mode, data=4, model=1, devices=list(apart))
  own = layout.own(8)
  placed, one = layout.place_rows(rows[own]), layout.replicate(np.ones(()))
  added = layout.map_rows(lambda a, x: a + x)(one, placed)
  np.testing.assert_array_equal(layout.fetch_rows(added), rows[own] + 1)
  whole = layout.gather(lambda a, b, x: a + b * x)(one, one, placed)
  np.testing.assert_array_equal(jax.device_get(whole), rows + 1)
  if mode == 'jit':
    first = 2 * jax.process_index()
    assert own.tolist() == [first, first + 1, first + 4, first + 5]
"""


def test_rows_and_arrays_are_placed_where_a_hosts_devices_stand_apart():
  """As on a TPU pod, where a host has a tile of the topology."""
  _finish(_start([[sys.executable, '-c', _APART]] * 2))


_HOSTS = """
import sys
import jax
import numpy as np
from jaxprompt import errors
from jaxprompt.data import contexts
from jaxprompt.devices import processes

processes.start()
here = jax.process_index()
assert processes.least(contexts.capacity(2.0 - here)) == 10**9
assert processes.from_first(lambda: {'process': here}) == {'process': 0}
assert processes.arrays_of_first(np.array([here, 5])).tolist() == [0, 5]


def fail():
  raise errors.UserError('no room')


for make in (fail, lambda: processes.check_same({'the size': here})):
  try:
    processes.from_first(make) if make is fail else make()
  except errors.UserError as e:
    print('told:', e, file=sys.stderr)
"""


def test_what_hosts_find_differently_is_process_0s_or_refused_by_all():
  found = []
  for status, log in _end(_start([[sys.executable, '-c', _HOSTS]] * 2)):
    assert status == 0, log
    found.append([line for line in log.splitlines() if line.startswith('told: ')])
  (own, differs), (other, also_differs) = found
  assert own == 'told: no room'
  assert other == 'told: process 0 has found: no room'
  assert differs == also_differs
  assert 'the size is 1 in process 1, 0 in process 0' in differs


def test_sigterm_to_one_saves_one_checkpoint_and_ends_all(two, tmp_path):
  data, expected = two
  own = _command(data, tmp_path)
  first, other = _end(_start([own, _signalled('SIGTERM', data, tmp_path)]))
  assert first[0] == other[0] == 128 + signal.SIGTERM, (first, other)
  assert f'asked to end: saved step {max(_steps_saved(tmp_path))}' in first[1]
  assert not (tmp_path / 'results.json').exists()
  _finish(_start([own] * 2))
  _assert_same(tmp_path, expected)


def _assert_told(status, log):
  """The line is ours, or JAX's own if it is faster."""
  assert status in (1, -signal.SIGABRT), log
  assert 'another process has ended' in log or 'another task died' in log, log


def test_when_one_is_killed_the_other_ends_and_one_alone_goes_on(two, tmp_path):
  data, expected = two
  commands = [_command(data, tmp_path), _signalled('SIGKILL', data, tmp_path)]
  first, (status, _) = _end(_start(commands))
  assert status == -signal.SIGKILL and _steps_saved(tmp_path)
  _assert_told(*first)
  assert main.main(arguments('qa', tmp_path, data, *SETTINGS)) == 0
  _assert_close(tmp_path, expected)


def test_when_the_first_is_killed_the_other_ends(two, tmp_path):
  data, _ = two
  commands = [_signalled('SIGKILL', data, tmp_path), _command(data, tmp_path)]
  (status, _), other = _end(_start(commands))
  assert status == -signal.SIGKILL
  _assert_told(*other)


def test_a_checkpoint_that_cannot_be_written_ends_all(two, tmp_path):
  data, expected = two
  argv = [*_arguments(data, tmp_path), '--distributed']
  full = kills.stopped_at_path('ENOSPC', r'/checkpoints/6\.', argv)
  (status, log), other = _end(_start([full, _command(data, tmp_path)]))
  line = 'checkpoints cannot be written: [Errno 28] No space left on device; make room'
  assert status == 2 and line in log, log
  assert other[0] == 2 and 'process 0 has found: ' in other[1], other
  _finish(_start([_command(data, tmp_path)] * 2))
  _assert_same(tmp_path, expected)


def _refusals(commands):
  """Returns the last line of each process, which must end with status 2."""
  lines = []
  for status, log in _end(_start(commands)):
    assert status == 2, log
    lines.append(log.splitlines()[-1])
  return lines


def test_processes_of_different_configs_are_refused(two, tmp_path):
  data, _ = two
  commands = [_command(data, tmp_path, f'seed={seed}') for seed in (3, 4)]
  for line in _refusals(commands):
    assert 'seed is 4 in process 1, 3 in process 0' in line
  assert not list(tmp_path.iterdir())


def test_a_workdir_that_is_not_shared_is_refused(two, tmp_path):
  data, _ = two
  commands = [_command(data, tmp_path / name) for name in ('a', 'b')]
  for line in _refusals(commands):
    assert f"--workdir '{tmp_path / 'b'}' is not where process 0 writes to" in line
  assert [path.name for path in (tmp_path / 'a').iterdir()] == ['.lock']


def test_a_coordinator_that_is_not_there_is_waited_for_no_longer_than_said():
  wait = 'from jaxprompt.devices import processes; processes.start(seconds=2)'
  alone, other = _start([[sys.executable, '-c', wait], [sys.executable, '-c', '']])
  (status, log), _ = _end([alone, other])
  assert status == 2
  assert 'did not meet at 127.0.0.1:' in log.splitlines()[-1]


def test_standard_input_and_output_are_of_one_process(tmp_path, capsys, monkeypatch):
  (tmp_path / 'in.jsonl').write_text('{}')
  monkeypatch.setattr(processes_lib, 'start', lambda: None)
  argv = ['jaxprompt', '--mode=predict', '--distributed', f'--workdir={tmp_path}']
  for source, output in (('-', 'out'), (str(tmp_path / 'in.jsonl'), '-')):
    assert main.main([*argv, f'--input={source}', f'--output={output}']) == 2
    assert "'-' is of one process alone; with --dist" in capsys.readouterr().err


@pytest.mark.parametrize(
  'variables, message',
  [
    ({'JAX_NUM_PROCESSES': 'two'}, "JAX_NUM_PROCESSES is 'two'; expected a number"),
    ({'JAX_COORDINATOR_ADDRESS': 'me'}, "JAX_COORDINATOR_ADDRESS is 'me'; expected h"),
  ],
)
def test_a_variable_that_cannot_be_read_is_one_line(
  tmp_path, capsys, monkeypatch, variables, message
):
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  argv = arguments('qa', tmp_path, tmp_path)
  assert main.main([*argv, '--distributed']) == 2
  assert message in capsys.readouterr().err
