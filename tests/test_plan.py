"""A plan says what a run would be, from its rows and its model's shapes."""

import json

import jax
import optax
import pytest
from conftest import arguments
from conftest import write_data

from jaxprompt import errors
from jaxprompt import flags as flags_lib
from jaxprompt import main
from jaxprompt.devices import devices
from jaxprompt.lm import weights
from jaxprompt.runs import plan
from jaxprompt.runs import programs
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


def test_the_longest_rows_that_are_measured_may_be_those_of_validation(
  config, tmp_path, monkeypatch
):
  settings, sizes = config(), []
  path = tmp_path / 'data' / 'test.jsonl'
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  shorter = [{**row, 'context': row['context'][:9]} for row in rows]
  path.write_text('\n'.join(map(json.dumps, shorter)))
  experiment = setup.build(settings, devices.layout(**settings.parallel), _quiet)
  rows = [experiment.splits[name].rows for name in ('validation', 'test')]
  validation, test = (int(table.lengths[:, 0].max()) for table in rows)
  assert validation > test
  monkeypatch.setattr(programs, 'of_run', lambda *given: sizes.append(given[4]) or [])
  plan.plan(settings, _quiet)
  assert sizes[0].source == validation
  longest = max(int(table.lengths.sum(axis=1).max()) for table in rows)
  assert sum(sizes[0].evaluation) >= longest


def _fails(schedule):
  return optax.chain(optax.sgd(schedule), optax.contrib.reduce_on_plateau())


def test_an_optimiser_that_would_fail_is_refused(config):
  settings = config(f'train.optimizer={__name__}:_fails', 'train.learning_rate=0.1')
  with pytest.raises(errors.UserError, match=r'train\.optimizer .*_fails fails: '):
    plan.plan(settings, _quiet)


def test_the_command_prints_it(tmp_path, capsys):
  data = write_data(tmp_path / 'data', 'qa')
  argv = arguments('qa', '', data, 'train.accumulate=2', mode='plan')
  assert main.main([x for x in argv if x != '--workdir=']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[2].startswith('training: 4 steps of 8 rows, 2 an epoch of ')
  (step,) = [line for line in lines if line.startswith('train step')]
  assert step.split()[3] == 'MB'
