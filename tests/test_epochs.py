"""When a run is over, which of its validations is the best, and what it is told."""

import types

import numpy as np
import pytest

from jaxprompt.training import epochs
from jaxprompt.training import watch


def _records(*losses, every=2, epoch_steps=4):
  steps = [every * (i + 1) for i in range(len(losses))]
  return [
    {
      'epoch': epochs.passes(step, epoch_steps),
      'step': step,
      'train_loss': loss,
      'validation_loss': loss,
    }
    for step, loss in zip(steps, losses, strict=True)
  ]


def _is_over(records, **settings):
  train = {'epochs': 2, 'steps': 0, 'patience': 0} | settings
  return epochs.is_over(records, types.SimpleNamespace(**train))


def test_passes_over_the_rows_are_whole_at_an_epochs_end():
  assert [epochs.passes(step, 4) for step in (1, 4, 6)] == [0.25, 1, 1.5]


def test_no_part_of_a_long_epoch_is_a_whole_one():
  assert epochs.passes(10_000, 10_001) == 0.999
  records = [{'epoch': epochs.passes(10_000, 10_001), 'step': 10_000}]
  assert not _is_over(records, epochs=1)


def test_the_best_is_the_first_of_the_lowest_losses_wherever_it_was_seen():
  assert epochs.best(_records(3.0, 1.0, 2.0, 1.0))['step'] == 4
  assert epochs.best([]) is None


def test_a_run_is_over_after_its_epochs_or_its_steps():
  records = _records(4.0, 3.0, 2.0, 1.0)
  assert [_is_over(records[:n]) for n in range(5)] == [False] * 4 + [True]
  assert [_is_over(records[:n], steps=6) for n in range(5)] == [False] * 3 + [True] * 2
  assert not _is_over(records, steps=9)


def test_a_run_is_over_when_patience_is():
  records = _records(3.0, 1.0, 2.0, 2.0)
  found = [_is_over(records[:n], patience=2, epochs=9) for n in range(5)]
  assert found == [False] * 4 + [True]


@pytest.fixture
def warnings(monkeypatch):
  found = []
  monkeypatch.setattr(watch.log, 'warning', lambda text, *x: found.append(text % x))
  return found


def test_a_loss_that_does_not_fall_is_told_once(warnings):
  prompt = {'a': np.ones(3)}
  watch.warn(_records(3.0, 3.1), prompt, prompt)
  watch.warn(_records(3.0, 3.1, 2.9), prompt, prompt)
  assert not warnings
  watch.warn(_records(3.0, 3.1, 3.2), prompt, prompt)
  watch.warn(_records(3.0, 3.1, 3.2, 3.3), prompt, prompt)
  (text,) = warnings
  assert 'has not fallen in 3 validations (3, now 3.2)' in text


def test_a_loss_that_still_falls_at_the_end_is_told(warnings):
  for losses in ((3.0,), (3.0, 2.99), (2.0, 1.0, 1.5), (2.0, 1.0, 1.1, 0.99)):
    watch.warn_of_early_end(_records(*losses))
  assert not warnings
  watch.warn_of_early_end(_records(2.0, 1.0, 1.1, 0.9))
  assert 'was still falling at the end (1, then 0.9): longer training' in warnings[0]


def test_a_prompt_that_runs_away_is_told(warnings):
  watch.warn([], {'a': np.full(3, 99.0)}, {'a': np.ones(3)})
  assert not warnings
  watch.warn([], {'a': np.full(3, 200.0)}, {'a': np.ones(3)})
  assert 'is 200 times what it was at first' in warnings[0]


def test_a_prompt_without_effect_is_told(warnings):
  watch.warn_of_no_effect({'soft': {'loss': 2.9}, 'none': {'loss': 3.0}})
  assert not warnings
  watch.warn_of_no_effect({'soft': {'loss': 3.001}, 'none': {'loss': 3.0}})
  assert 'its loss is 3.001, that of no prompt 3;' in warnings[0]
