"""Sweeps: every run of one is the run by itself, and its best can be used."""

import json

import numpy as np
import pytest
from conftest import CONFIGS
from conftest import arguments
from conftest import write_data
from etils import epath

from jaxprompt import checkpoint
from jaxprompt import config as config_lib
from jaxprompt import devices
from jaxprompt import errors
from jaxprompt import experiment as experiment_lib
from jaxprompt import main
from jaxprompt import sweep
from jaxprompt import train

# A learning rate that no run survives is one of them: it must not touch the others.
VALUES = {
  'sweep.length': '2,3',
  'sweep.seed': '0,1',
  'sweep.init': 'random,text',
  'sweep.learning_rate': '0.01,0.03,1e30',
}
# Of runs by themselves; together they have every value that does not diverge.
SINGLE = [
  {'length': 2, 'seed': 1, 'init': 'random', 'learning_rate': 0.01},
  {'length': 3, 'seed': 1, 'init': 'text', 'learning_rate': 0.03},
  {'length': 3, 'seed': 0, 'init': 'random', 'learning_rate': 0.03},
]


def _arguments(workdir, data, values):
  overrides = [f'{name}={value}' for name, value in values.items()]
  return arguments('summarization', workdir, data, *overrides, mode='sweep')


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """The workdir of a sweep, its data, its config, and the content of sweep.json."""
  root = tmp_path_factory.mktemp('sweep')
  # Batches of two shapes, which two seeds put in two orders.
  data = write_data(root / 'data', 'summarization', sizes=(35, 5, 7))
  workdir = epath.Path(root / 'sweep')
  assert main.main(_arguments(workdir, data, VALUES)) == 0
  return workdir, data, json.loads((workdir / 'sweep.json').read_text())


def _index(values):
  """Returns the number of the run with these values of `SWEPT`."""
  names = [VALUES[f'sweep.{name}'].split(',') for name in config_lib.SWEPT]
  at = [
    each.index(str(values[name]))
    for each, name in zip(names, config_lib.SWEPT, strict=True)
  ]
  return int(np.ravel_multi_index(at, [len(each) for each in names]))


def test_every_run_is_the_run_by_itself(finished, tmp_path):
  workdir, data, found = finished
  config = main._config(main._parse(_arguments(tmp_path, data, {}))[0])
  layout = devices.layout(**config.parallel)
  experiment = experiment_lib.build(config, layout, lambda batches, _: batches)
  termination = train.Termination()
  for values in SINGLE:
    i = _index(values)
    config.update_from_flattened_dict(
      {field: values[name] for name, field in config_lib.SWEPT.items()}
    )
    checkpoints = checkpoint.Checkpoints(
      epath.Path(tmp_path / str(i) / 'checkpoints'), keep=1
    )
    prompt = experiment_lib.initial_prompt(experiment)
    alone = train.Trainer(
      experiment, prompt, epath.Path(tmp_path / str(i)), checkpoints, termination
    )
    alone.run()
    best, _ = checkpoint.read_best(workdir / 'runs' / str(i) / 'checkpoints')
    np.testing.assert_allclose(best, alone.state.best_prompt, rtol=0, atol=1e-6)
    epochs = found['runs'][i]['epochs']
    for record, expected in zip(epochs, alone.place.epochs, strict=True):
      for name in ('train_loss', 'validation_loss'):
        assert record[name] == pytest.approx(expected[name], abs=1e-6)
      assert record['step'] == expected['step']
