"""Sweeps: every run of one is the run by itself, and its best can be used."""

import dataclasses
import functools
import itertools
import json
import shutil
import types

import jax
import numpy as np
import pytest
from conftest import arguments
from conftest import write_data
from etils import epath

from jaxprompt import config as config_lib
from jaxprompt import flags as flags_lib
from jaxprompt import main
from jaxprompt.data import contexts
from jaxprompt.devices import devices
from jaxprompt.prompts import kinds
from jaxprompt.runs import comparison
from jaxprompt.runs import records
from jaxprompt.runs import setup
from jaxprompt.runs import sweep
from jaxprompt.runs import trained_prompts
from jaxprompt.training import checkpoint
from jaxprompt.training import group
from jaxprompt.training import loop
from jaxprompt.training import optim
from jaxprompt.training import steps
from jaxprompt.training import watch

# A learning rate that no run survives is one of them: it must not touch the others.
VALUES = {'seed': '0,1', 'init': 'random,text', 'learning_rate': '0.01,0.03,1e30'}
# Runs by themselves: where each stands in the sweep. Of one learning rate, they share
# their compiled program, the larger part of the test's time.
SINGLE = {
  1: {'seed': 0, 'prompt.init': 'random', 'train.learning_rate': 0.03},
  10: {'seed': 1, 'prompt.init': 'text', 'train.learning_rate': 0.03},
}


def _arguments(workdir, data, values):
  overrides = [f'sweep.{name}={value}' for name, value in values.items()]
  return arguments('summarization', workdir, data, *overrides, mode='sweep')


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """The workdir of a sweep, its data, and the content of sweep.json."""
  root = epath.Path(tmp_path_factory.mktemp('sweep'))
  # Batches of two shapes, which the two seeds put in two orders.
  data = write_data(root / 'data', 'summarization', sizes=(35, 5, 7))
  workdir = root / 'sweep'
  assert main.main(_arguments(workdir, data, VALUES)) == 0
  return workdir, data, json.loads((workdir / 'sweep.json').read_text())


def _best_prompt(workdir):
  return trained_prompts.best_prompt(workdir)[0]['embeddings']


def _config(workdir, data, **overrides):
  values, _ = flags_lib.parse(_arguments(workdir, data, {}))
  config = config_lib.single_run(values.config)
  config.update_from_flattened_dict(overrides)
  return config


def _experiment(config):
  layout = devices.layout(**config.parallel)
  return setup.build(config, layout, lambda batches, _: batches)


def _train_alone(experiment, workdir):
  """Returns the trainer of a run by itself, when it is done."""
  trainer = loop.Trainer(
    experiment,
    trained_prompts.initial_prompt(experiment),
    workdir,
    checkpoint.Checkpoints(workdir / 'checkpoints', keep=1),
    loop.Termination(),
  )
  trainer.run()
  return trainer


def test_every_run_is_the_run_by_itself(finished, tmp_path):
  workdir, data, found = finished
  config = _config(tmp_path, data)
  experiment = _experiment(config)
  for i, overrides in SINGLE.items():
    config.update_from_flattened_dict(overrides)
    own = epath.Path(tmp_path / str(i))
    trainer = _train_alone(experiment, own)
    best = _best_prompt(workdir / 'runs' / str(i))
    np.testing.assert_allclose(best, _best_prompt(own), rtol=0, atol=2e-6)
    records = zip(found['runs'][i]['epochs'], trainer.place.epochs, strict=True)
    for record, alone in records:
      assert (record['epoch'], record['step']) == (alone['epoch'], alone['step'])
      for name in ('train_loss', 'validation_loss'):
        assert record[name] == pytest.approx(alone[name], abs=1e-6)


@pytest.mark.parametrize('name', optim.OPTIMIZERS)
def test_a_step_of_suffixes_is_each_ones_by_itself(gpt2, batch, name):
  """Their sources too are in the precision that the run by itself keeps them in."""
  lm, params, _ = gpt2
  rng = np.random.default_rng(0)
  batch = dataclasses.replace(
    batch,
    source_ids=rng.integers(1, 320, (3, 6)).astype(np.int32),
    source_mask=np.arange(6) < np.array([[4], [6], [0]]),
  )
  peaks = np.float32([[0.01, 0.02], [0.03, 0.04]])  # [seeds, runs]
  prompts = rng.normal(size=(2, 2, 5, 24)).astype(np.float32)
  batches = jax.tree.map(lambda x: np.stack([x, x[::-1]], axis=1), batch)

  def tx_of(peak):
    own = optim.resolve(name, weight_decay=0.0, beta1=0.9, beta2=0.999)
    return optim.prompt_only(peak, clip_norm=1.0, optimizer=own)

  def state(prompt):
    return steps.init_state({'embeddings': prompt}, params, tx_of(0.1))

  def alone(state, peak, batch):
    rows = batch.source_ids, batch.source_mask
    source = contexts.compute(lm, 'bfloat16', params, rows)
    return steps.train_step(
      lm, tx_of(peak), steps.Options(), state, params, batch, source
    )

  def sources(batches):
    rows = (x.reshape(6, 6) for x in (batches.source_ids, batches.source_mask))
    return contexts.compute(lm, 'bfloat16', params, tuple(rows))

  step = jax.jit(functools.partial(group.train_step, lm, tx_of, steps.Options()))
  states = jax.vmap(jax.vmap(state))(prompts)
  together, scalars = step(states, (params, peaks), (batches, sources(batches)))
  alone = jax.jit(alone)
  for at in np.ndindex(2, 2):
    own = jax.tree.map(lambda x, seed=at[0]: x[:, seed], batches)
    expected, expected_scalars = alone(state(prompts[at]), peaks[at], own)
    found, wanted = together.prompt['embeddings'][at], expected.prompt['embeddings']
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)
    np.testing.assert_allclose(scalars['loss'][at], expected_scalars['loss'], rtol=1e-6)


@pytest.mark.parametrize('kind', kinds.KINDS)
def test_sources_before_suffixes_are_run_once_for_all_runs_and_epochs(
  tmp_path, monkeypatch, kind
):
  root = epath.Path(tmp_path)
  data = write_data(root / 'data', 'summarization', sizes=(35, 5, 7))
  overrides = {'prompt.kind': kind, 'prompt.position': 'suffix', 'train.steps': 14}
  overrides |= {'eval.every_steps': 5, 'eval.validation_text': 'on'}
  config = _config(root, data, **overrides)
  experiment = _experiment(config)
  alone = _train_alone(experiment, root / 'alone')
  runs = group.Group(
    experiment,
    [config, _config(root, data, **overrides, **{'train.learning_rate': 0.03})],
    [trained_prompts.initial_prompt(experiment)] * 2,
    root / 'group',
    loop.Termination(),
  )
  run = []
  kept = runs._loader._contexts
  compute = kept._compute
  monkeypatch.setattr(kept, '_compute', lambda *args: run.append(1) or compute(*args))
  outcome, _ = runs.run()
  assert [found['step'] for found in outcome.epochs] == [5, 9, 10, 14]
  assert len(run) == 9  # steps an epoch
  for found, expected in zip(outcome.epochs, alone.place.epochs, strict=True):
    assert found['step'] == expected['step']
    assert found.keys() == expected.keys() > {'validation_rougeL'}
    loss = pytest.approx(expected['validation_loss'], abs=1e-6)
    assert found['validation_loss'] == loss
  close = functools.partial(np.testing.assert_allclose, rtol=0, atol=3e-6)
  jax.tree.map(close, outcome.state.prompt, jax.device_get(alone.state.prompt))


def test_a_group_ends_when_its_runs_are_over_and_each_took_its_share_of_the_time(
  tmp_path, monkeypatch
):
  root = epath.Path(tmp_path)
  data = write_data(root / 'data', 'summarization', sizes=(35, 5, 7))
  overrides = {'eval.every_steps': 2, 'train.patience': 1, 'train.learning_rate': 0.0}
  config = _config(root, data, **overrides)
  experiment = _experiment(config)
  clock = types.SimpleNamespace(monotonic=itertools.count().__next__)
  monkeypatch.setattr(group, 'time', clock)  # asked before and after steps
  prompts = [trained_prompts.initial_prompt(experiment)] * 2
  runs = group.Group(
    experiment, [config] * 2, prompts, root / 'group', loop.Termination()
  )
  for found in runs.run():
    assert int(found.state.step) == found.epochs[-1]['step'] == 4
    assert [record['seconds'] for record in found.epochs] == [0.5, 0.5]


def test_a_run_that_diverges_is_told_and_leaves_the_others_alone(finished):
  workdir, _, found = finished
  for run in found['runs']:
    lost = run['train.learning_rate'] == 1e30
    assert run['diverged'] == lost
    assert len(run['epochs']) == (0 if lost else 2)
    assert (workdir / 'runs' / str(run['run'])).exists() == (not lost)


def test_a_run_has_diverged_if_one_step_was_not_finite(
  finished, tmp_path, capsys, monkeypatch
):
  """Also where its loss and its prompt are, at the epoch's end."""
  _, data, _ = finished
  step = steps.train_step

  def overflows_at_step_two(*args, **kwargs):
    state, scalars = step(*args, **kwargs)
    return state, {**scalars, 'is_finite': scalars['is_finite'] & (state.step != 2)}

  monkeypatch.setattr(steps, 'train_step', overflows_at_step_two)
  argv = _arguments(tmp_path / 'sweep', data, {'seed': '0,1'})
  assert main.main([*argv, '--config.train.epochs=1']) == 2
  assert 'of every run is not finite' in capsys.readouterr().err


def test_the_best_is_the_run_of_the_lowest_validation_loss(finished):
  workdir, _, found = finished
  losses = {
    run['run']: min(record['validation_loss'] for record in run['epochs'])
    for run in found['runs']
    if not run['diverged']
  }
  assert found['best'] == min(losses, key=losses.get)
  best = found['runs'][found['best']]
  results = json.loads((workdir / 'best' / 'results.json').read_text())
  assert results['epochs'] == best['epochs']
  for field in ('seed', 'prompt.init', 'train.learning_rate'):
    assert config_lib.value(results['config'], field) == best[field]
  np.testing.assert_array_equal(
    _best_prompt(workdir / 'best'), _best_prompt(workdir / 'runs' / str(found['best']))
  )


def test_all_runs_are_tested_and_their_seeds_compared(
  tmp_path, capsys, caplog, monkeypatch
):
  monkeypatch.setattr(watch, '_STILL_FALLING', -10)  # so that all of it is
  monkeypatch.setattr(watch, '_NO_EFFECT', 10)
  data = write_data(tmp_path / 'data', 'summarization', sizes=(12, 3, 5))
  workdir = epath.Path(tmp_path / 'sweep')
  # First the best alone, as one may find that all are wanted.
  for test in ('best', 'all'):
    assert main.main(_arguments(workdir, data, {'seed': '3,4', 'test': test})) == 0
  found = json.loads((workdir / 'sweep.json').read_text())
  (seeds,) = found['test']
  runs = [records.read_results(workdir / 'runs' / i) for i in ('0', '1')]
  assert seeds['seeds'] == [3, 4]
  losses = [run['test']['soft']['loss'] for run in runs]
  assert seeds['figures']['loss']['mean'] == pytest.approx(np.mean(losses))
  assert seeds['figures']['loss']['worst'] == max(losses)
  assert losses[0] != losses[1]
  assert runs[0]['test']['hard']['loss'] == runs[1]['test']['hard']['loss']
  best = records.read_results(workdir / 'best')
  assert best['test'] == runs[found['best']]['test']
  texts = [
    [
      row['prediction']
      for row in records.read_predictions(workdir / 'runs' / i, 'soft')
    ]
    for i in ('0', '1')
  ]
  same = [x == y for x, y in zip(*texts, strict=True)]
  assert seeds['agreement'] == pytest.approx(np.mean(same))
  assert f'at worst {max(losses):.4f}' in capsys.readouterr().out
  # Of the best run, which is tested twice here.
  assert caplog.text.count('validation loss was still falling at the end') == 2
  assert caplog.text.count('the prompt has no effect') == 2
  together = seeds['ensemble']
  # The likelihoods of the two have a geometric mean, which normalising makes larger.
  assert min(losses) / 2 < together['loss'] < np.mean(losses)
  (gain,) = (x for x in together['differences'] if x['figure'] == 'loss')
  assert (gain['arm'], gain['other']) == ('ensemble', 'mean')
  assert gain['difference'] == pytest.approx(together['loss'] - np.mean(losses))


def test_the_best_is_a_workdir_like_any_other(finished, tmp_path):
  workdir, _, _ = finished
  argv = ['jaxprompt', '--mode=export', f'--workdir={workdir / "best"}']
  assert main.main([*argv, f'--output={tmp_path / "adapter"}']) == 0
  assert (tmp_path / 'adapter' / 'adapter_model.safetensors').exists()
  assert 'Loss while training' in (workdir / 'best' / 'report.html').read_text()


def test_a_finished_sweep_only_prints_its_table_again(finished, capsys, monkeypatch):
  workdir, data, found = finished
  monkeypatch.setattr(setup, 'build', None)  # what computes would need it
  assert main.main(_arguments(workdir, data, VALUES)) == 0
  _, head, *rows = capsys.readouterr().out.splitlines()
  assert head.split()[:5] == [
    'run', 'prompt.length', 'seed', 'prompt.init', 'train.learning_rate',
  ]  # fmt: skip
  numbers = [int(row.split()[0]) for row in rows[:12]]
  assert numbers[0] == found['best']
  assert sorted(numbers) == list(range(12))
  assert [row.split()[-1] for row in rows[8:12]] == ['diverged'] * 4


def test_a_sweep_goes_on_after_its_last_saved_epoch(finished, tmp_path, monkeypatch):
  workdir, data, found = finished
  shutil.copytree(workdir, tmp_path / 'sweep')
  (tmp_path / 'sweep' / 'sweep.json').unlink()
  (last,) = (tmp_path / 'sweep' / 'groups' / '3').glob('18')
  shutil.rmtree(last)
  shutil.rmtree(tmp_path / 'sweep' / 'runs')
  monkeypatch.setattr(comparison, 'compare', lambda *_: None)
  assert main.main(_arguments(tmp_path / 'sweep', data, VALUES)) == 0
  again = json.loads((tmp_path / 'sweep' / 'sweep.json').read_text())
  for run, before in zip(again['runs'], found['runs'], strict=True):
    for record, expected in zip(run['epochs'], before['epochs'], strict=True):
      for name in ('step', 'train_loss', 'validation_loss'):
        assert record[name] == expected[name]


def test_runs_of_one_length_and_then_of_one_seed_stand_together(tmp_path):
  values, _ = flags_lib.parse(
    _arguments(tmp_path, tmp_path, {'length': '4,7', 'seed': '5,3', 'init': 'vocab'})
  )
  runs = sweep.grid(values.config)
  assert [(run.prompt.length, run.seed) for run in runs] == [
    (4, 5), (4, 3), (7, 5), (7, 3),
  ]  # fmt: skip
  assert {run.prompt.init for run in runs} == {'vocab'}
  assert {run.train.learning_rate for run in runs} == {0.15}


def test_an_init_of_a_sweep_may_be_the_mean_of_several_runs(tmp_path):
  inits = ['text', 'runs/a,runs/b', 'runs/c']
  argv = _arguments(tmp_path, tmp_path, {'init': json.dumps(inits)})
  runs = sweep.grid(flags_lib.parse(argv)[0].config)
  assert [run.prompt.init for run in runs] == inits


ERRORS = {
  'learning_rate=0.1,fast': "sweep.learning_rate is '0.1,fast'; expected values",
  'learning_rate=-0.1': 'each a number from 1e-30 to 1e+30, or 0',
  'learning_rate=0.1,nan': "sweep.learning_rate is '0.1,nan'",
  'learning_rate=0.1,0.10': 'all different',
  'seed=,': "sweep.seed is ','",
  'seed=1.5': 'each a whole number from 0 to 4294967295',
  'init=text,,vocab': 'each a text in UTF-8 that is not blank',
  'init=text,/nowhere': "prompt.init '/nowhere' holds no trained prompt",
  'init=["text"': 'separated by commas or a JSON list',
  'length=[[3]]': 'each a whole number from 1 to',
  'length=3,0': 'each a whole number from 1 to',
  'length=3,150': 'prompt.length (150) and the longest row of',
  'learning_rate=': '--mode=sweep has nothing to sweep; give values to one or more of',
}


def _error(capsys, argv):
  assert main.main(argv) == 2
  return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize('values', ERRORS)
def test_bad_values_are_one_line_with_status_2(finished, tmp_path, capsys, values):
  _, data, _ = finished
  argv = _arguments(tmp_path / 'sweep', data, dict([values.split('=')]))
  assert ERRORS[values] in _error(capsys, argv)
  assert not (tmp_path / 'sweep' / 'config.json').exists()


def test_other_modes_refuse_a_sweeps_values_and_workdir(finished, tmp_path, capsys):
  workdir, data, _ = finished
  argv = _arguments(tmp_path, data, {'seed': '0,1'})
  argv[3] = '--mode=train'
  assert "sweep.seed is '0,1', which only --mode=sweep reads" in _error(capsys, argv)
  argv = ['jaxprompt', '--mode=export', f'--workdir={workdir}', '--output=adapter']
  told = 'is the workdir of a sweep; use the best of its runs'
  assert told in _error(capsys, argv)
  argv = arguments('summarization', tmp_path, data, f'prompt.init={workdir}')
  assert told in _error(capsys, argv)
  argv = arguments('summarization', tmp_path, data, mode='eval')
  assert told in _error(capsys, [*argv, f'--prompt={workdir}'])
