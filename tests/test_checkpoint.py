"""Checkpoints: what comes back, and what happens when one is damaged."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from jaxprompt import checkpoint


@pytest.fixture
def directory(tmp_path):
  return epath.Path(tmp_path / 'checkpoints')


def _state(step):
  return {'best_prompt': jnp.full((3, 4), step, jnp.float32), 'step': jnp.asarray(step)}


def _save(directory, *steps, keep=3):
  checkpoints = checkpoint.Checkpoints(directory, keep=keep)
  for step in steps:
    checkpoints.save(step, _state(step), {'epochs': [step]})
  checkpoints.close()


def _restored_step(directory):
  checkpoints = checkpoint.Checkpoints(directory, keep=3)
  found = checkpoints.restore(_state(0))
  checkpoints.close()
  return found and int(found[0]['step'])


def test_the_newest_comes_back_and_only_so_many_are_kept(directory):
  _save(directory, 2, 10, 7, 11, keep=2)
  assert _restored_step(directory) == 11
  assert len([path for path in directory.iterdir() if path.name.isdigit()]) == 2


def test_there_may_be_none(directory):
  assert _restored_step(directory) is None
  assert checkpoint.read_best(directory / 'nowhere') is None


def test_a_step_saved_again_is_replaced(directory):
  checkpoints = checkpoint.Checkpoints(directory, keep=3)
  checkpoints.save(4, _state(4), {'epochs': []})
  checkpoints.save(4, _state(5), {'epochs': [1]})
  state, progress = checkpoints.restore(_state(0))
  checkpoints.close()
  assert progress == {'epochs': [1]}
  np.testing.assert_array_equal(state['best_prompt'], 5)


def _truncate(path):
  path.write_bytes(path.read_bytes()[:-7])


def _flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def _empty(path):
  path.write_bytes(b'')


def _remove(path):
  path.unlink()


@pytest.mark.parametrize('spoil', [_truncate, _flip, _empty, _remove])
def test_a_damaged_one_is_passed_over_for_the_one_before(
  directory, spoil, caplog, monkeypatch
):
  _save(directory, 1, 2)
  for path in pathlib.Path(directory / '2' / 'state').rglob('*'):
    if path.is_file() and path.stat().st_size > 8:
      spoil(path)
  monkeypatch.setattr(checkpoint.log, 'propagate', False)
  monkeypatch.setattr(checkpoint.log, 'handlers', [caplog.handler])
  assert _restored_step(directory) == 1
  assert 'checkpoint 2 is damaged' in caplog.text


def test_arrays_that_are_whole_but_not_those_saved_are_noticed(directory, monkeypatch):
  _save(directory, 1)
  monkeypatch.setattr(checkpoint, '_digest', lambda state: 'that of other arrays')
  _save(directory, 2)
  monkeypatch.undo()
  assert _restored_step(directory) == 1


def test_the_best_prompt_is_read_without_knowing_its_shape(directory):
  _save(directory, 3)
  best, progress = checkpoint.read_best(directory)
  np.testing.assert_array_equal(best, np.full((3, 4), 3.0))
  assert progress == {'epochs': [3]}


def test_no_prompt_is_best_before_an_epoch_has_been_validated(directory):
  checkpoints = checkpoint.Checkpoints(directory, keep=3)
  checkpoints.save(1, _state(1), {'epochs': []})
  checkpoints.close()
  assert checkpoint.read_best(directory) is None
