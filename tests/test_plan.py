"""A plan says what a run would be, from its rows and its model's shapes."""

import jax
import pytest
from conftest import arguments
from conftest import write_data

from jaxprompt import flags as flags_lib
from jaxprompt import main
from jaxprompt.devices import devices
from jaxprompt.lm import weights
from jaxprompt.runs import plan
from jaxprompt.runs import setup
from jaxprompt.training import loop


def _quiet(batches, _):
  return batches


@pytest.fixture
def config(tmp_path):
  """Returns a function from overrides to a config: 12, 5 and 7 rows."""
  data = write_data(tmp_path / 'data', 'qa')

  def build(*overrides):
    argv = arguments('qa', '', data, *overrides, mode='plan')
    values, _ = flags_lib.parse([x for x in argv if x != '--workdir='])
    return values.config

  return build


def test_a_plan_is_of_the_run_that_follows(config, monkeypatch):
  settings = config('train.accumulate=2', 'data.max_source_tokens=20')
  layout = devices.layout(**settings.parallel)
  experiment = setup.build(settings, layout, _quiet)
  train = loop.train_loader(experiment, settings)
  monkeypatch.setattr(weights, 'read', None)  # a plan needs none
  found = plan.plan(settings, _quiet)
  assert [split.rows for split in found.splits.values()] == [12, 5, 7]
  cut = experiment.splits['train'].sources_cut
  assert 0 < found.splits['train'].sources_cut == cut
  tokens = sum(row.length for row in experiment.splits['train'].rows)
  assert found.splits['train'].tokens == tokens
  assert found.batch_rows == 8
  assert found.steps == 2 * len(train) == 2 * sum(found.batches.values())
  held = sum(x.nbytes for x in jax.tree.leaves(experiment.params))
  assert found.weights == (experiment.model.size, held)
  assert list(found.uses) == ['train step', 'losses', 'generation']
  for use in found.uses.values():
    assert held < use.memory.held < min(1.2 * held, use.memory.peak)
    assert use.operations > 0


def test_a_suffixs_sources_and_a_classifications_labels_are_planned(config):
  settings = config('prompt.position=suffix', 'prompt.kind=deep')
  settings.example.labels, settings.example.references = (
    ('Ada Lovelace', 'James Watt'),
    '',
  )
  found = plan.plan(settings, _quiet)
  names = ['contexts', 'train step', 'losses', 'ranking of labels']
  assert list(found.uses) == names


def test_the_command_prints_it(tmp_path, capsys):
  data = write_data(tmp_path / 'data', 'qa')
  argv = arguments('qa', '', data, 'train.accumulate=2', mode='plan')
  assert main.main([x for x in argv if x != '--workdir=']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[2].startswith('training: 4 steps of 8 rows, 2 an epoch of ')
  (step,) = [line for line in lines if line.startswith('train step')]
  assert step.split()[3] == 'MB'
