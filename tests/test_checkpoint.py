"""Checkpoints: what comes back, and what happens when one is damaged."""

import dataclasses
import os
import pathlib
import subprocess

import jax
import jax.numpy as jnp
import kills
import numpy as np
import pytest
from etils import epath
from jax.experimental import multihost_utils

from jaxprompt import errors
from jaxprompt.training import checkpoint
from jaxprompt.training import optim
from jaxprompt.training import steps


@pytest.fixture
def directory(tmp_path):
  return epath.Path(tmp_path / 'checkpoints')


def _state(step):
  prompt = {'embeddings': jnp.full((3, 4), step, jnp.float32)}
  return {'best_prompt': prompt, 'initial_prompt': prompt, 'step': jnp.asarray(step)}


def _save(directory, *steps, keep=3):
  checkpoints = checkpoint.Checkpoints(directory, keep=keep)
  for step in steps:
    checkpoints.save(step, _state(step), {'epochs': [step]})
  checkpoints.close()


def _restored_step(directory):
  checkpoints = checkpoint.Checkpoints(directory, keep=3)
  found = checkpoints.restore(_state(0), {'epochs': []})
  checkpoints.close()
  return found and int(found[0]['step'])


def test_the_newest_comes_back_and_only_so_many_are_kept(directory):
  _save(directory, 2, 10, 7, 11, keep=2)
  assert _restored_step(directory) == 11
  assert len([path for path in directory.iterdir() if path.name.isdigit()]) == 2


@pytest.mark.parametrize('name', optim.OPTIMIZERS)
def test_a_state_of_any_tree_comes_back_bit_for_bit(directory, name):
  rng = np.random.default_rng(0)
  mlp = {'down': rng.normal(size=(128, 2)), 'up': rng.normal(size=(2, 128))}
  mlp |= {name: rng.normal(size=128) for name in ('scale', 'bias')}
  # Of a size that Adafactor keeps the mean squares of by rows and columns.
  prompt = {'embeddings': rng.normal(size=(130, 128)), 'mlp': mlp}
  prompt = jax.tree.map(np.float32, prompt)
  own = optim.resolve(name, weight_decay=0.0, beta1=0.9, beta2=0.999)
  tx = optim.prompt_only(0.1, clip_norm=1.0, optimizer=own)
  state = steps.init_state(prompt, {'w': jnp.ones(2)}, tx)
  tree = {'frozen': {'w': jnp.ones(2)}, 'prompt': prompt}
  moved = jax.jit(tx.update)(tree, state.opt_state, tree)[1]
  state = jax.device_get(dataclasses.replace(state, opt_state=moved))
  checkpoints = checkpoint.Checkpoints(directory, keep=3)
  checkpoints.save(1, state, {'epochs': []})
  found, _ = checkpoints.restore(jax.tree.map(np.zeros_like, state), {'epochs': []})
  checkpoints.close()
  jax.tree.map(np.testing.assert_array_equal, found, state)
  for after, before in zip(
    *(jax.tree.leaves(tx.update(tree, x.opt_state, tree)) for x in (found, state)),
    strict=True,
  ):
    np.testing.assert_array_equal(after, before)


def test_there_may_be_none(directory):
  assert _restored_step(directory) is None
  assert checkpoint.read_best(directory / 'nowhere') is None


def test_a_step_that_is_saved_again_is_there_until_the_new_one_is(
  directory, monkeypatch
):
  _save(directory, 2, keep=1)
  checkpoints = checkpoint.Checkpoints(directory, keep=1)
  # A kill: nothing after it is done, also not by `close`.
  monkeypatch.setattr(checkpoints._manager, 'save', lambda *_, **__: 1 / 0)
  with pytest.raises(errors.UserError, match='division by zero'):
    checkpoints.save(2, _state(9), {'epochs': [9]})
  assert [path.name for path in directory.iterdir()] == ['replaced-2']
  assert checkpoint.read_best(directory)[1] == {'epochs': [2]}
  assert _restored_step(directory) == 2
  assert [path.name for path in directory.iterdir()] == ['2']


def test_half_of_a_step_that_was_saved_again_does_not_replace_it(directory):
  _save(directory, 2)
  (directory / '2').rename(directory / 'aside')
  _save(directory, 2)
  (directory / '2' / 'state').rmtree()
  (directory / 'aside').rename(directory / 'replaced-2')
  assert checkpoint.read_best(directory)[1] == {'epochs': [2]}
  assert _restored_step(directory) == 2
  assert [path.name for path in directory.iterdir()] == ['2']


def test_a_save_does_not_ask_for_sigterm(directory, monkeypatch):
  monkeypatch.setattr(multihost_utils, 'reached_preemption_sync_point', pytest.fail)
  _save(directory, 2, 3)
  assert _restored_step(directory) == 3


def test_a_step_saved_again_is_replaced(directory):
  checkpoints = checkpoint.Checkpoints(directory, keep=3)
  checkpoints.save(4, _state(4), {'epochs': []})
  checkpoints.save(4, _state(5), {'epochs': [1]})
  state, progress = checkpoints.restore(_state(0), {'epochs': []})
  checkpoints.close()
  assert progress == {'epochs': [1]}
  np.testing.assert_array_equal(state['best_prompt']['embeddings'], 5)
  _save(directory, 4, 6, keep=1)
  assert [path.name for path in directory.iterdir()] == ['6']


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
  assert [
    r.message.partition(' (')[0] for r in caplog.records if 'is d' in r.message
  ] == ['checkpoint 2 is damaged']
  assert (directory / 'damaged-2-1' / 'state').exists()
  _save(directory, 2)  # as the run does, going on
  assert _restored_step(directory) == 2


def test_arrays_that_are_whole_but_not_those_saved_are_noticed(directory, monkeypatch):
  _save(directory, 1)
  monkeypatch.setattr(checkpoint, '_digest', lambda state: 'that of other arrays')
  _save(directory, 2)
  monkeypatch.undo()
  assert _restored_step(directory) == 1


def _contents(directory):
  files = [p for p in sorted(pathlib.Path(directory).rglob('*')) if p.is_file()]
  return {file: file.read_bytes() for file in files}


@pytest.mark.parametrize('error', [PermissionError(13, 'no'), OSError(5, 'I/O error')])
def test_what_cannot_be_read_now_is_no_damage_and_nothing_is_touched(
  directory, monkeypatch, error
):
  _save(directory, 1, 2)
  before = _contents(directory)
  read_bytes = type(directory).read_bytes

  def unreadable(path):
    if 'state/d/' in str(path):
      raise error
    return read_bytes(path)

  monkeypatch.setattr(type(directory), 'read_bytes', unreadable)
  for read in (_restored_step, checkpoint.read_best):
    with pytest.raises(errors.UserError, match='nothing was changed') as e:
      read(directory)
    assert '\n' not in str(e.value)
  monkeypatch.undo()
  assert _contents(directory) == before
  assert _restored_step(directory) == 2


@pytest.mark.parametrize('error', [PermissionError(13, 'no'), OSError(5, 'I/O error')])
@pytest.mark.parametrize('unreadable', ['', '1', '1/state/d', '1/progress/metadata'])
def test_what_is_there_and_cannot_be_opened_is_not_nothing(
  directory, monkeypatch, error, unreadable
):
  _save(directory, 1)
  before = _contents(directory)
  refuse = _refuse(directory / unreadable, error)
  for name in ('stat', 'iterdir', 'read_bytes'):
    monkeypatch.setattr(type(directory), name, refuse(getattr(type(directory), name)))
  for name in ('stat', 'listdir', 'scandir'):
    monkeypatch.setattr(os, name, refuse(getattr(os, name)))
  for read in (_restored_step, checkpoint.read_best):
    with pytest.raises(errors.UserError, match=r'cannot be read: .*nothing was ch'):
      read(directory)
  monkeypatch.undo()
  assert _contents(directory) == before


def _refuse(directory, error):
  """Makes functions of a path raise an error for what is in a directory."""

  def refusing(function):
    def refused(path='.', *args, **options):
      if str(path).startswith(str(directory)):
        raise error
      return function(path, *args, **options)

    return refused

  return refusing


def _fail_in_orbax(monkeypatch, error):
  def fail(*_, **__):
    raise error

  monkeypatch.setattr(checkpoint.ocp.StandardCheckpointHandler, 'restore', fail)


@pytest.mark.parametrize(
  'error',
  [
    OSError(5, 'Input/output error'),
    ValueError('INTERNAL: Error reading "x" [OS error 5: EIO Input/output error]'),
  ],
)
def test_what_orbax_cannot_read_though_we_could_is_no_damage(
  directory, monkeypatch, error
):
  _save(directory, 1)
  before = _contents(directory)
  _fail_in_orbax(monkeypatch, error)
  for read in (_restored_step, checkpoint.read_best):
    with pytest.raises(errors.UserError, match=r'1 cannot be read.*nothing was chang'):
      read(directory)
  assert _contents(directory) == before


def test_one_without_a_digest_is_of_another_structure(directory):
  _save(directory, 1)
  path = directory / '1' / 'progress' / 'metadata'
  path.write_text('{"epochs": [1]}')
  before = _contents(directory)
  for read in (_restored_step, checkpoint.read_best):
    with pytest.raises(errors.UserError, match=r'of another structure \(digest\)'):
      read(directory)
  assert _contents(directory) == before


_READ = """
import gc
from etils import epath
from jaxprompt import startup
from jaxprompt.training import checkpoint
from jaxprompt.training import optim
from jaxprompt.training import steps
startup.set_up()
assert checkpoint.read_best(epath.Path(sys.argv[1])) is None
gc.collect()
"""


@pytest.mark.parametrize(
  'damage',
  [
    lambda path: path.name == '_METADATA' and (b'np.nda', b'np.xda'),
    lambda path: path.parent.name == 'd' and (b'"', b'!'),
  ],
)
def test_a_user_sees_one_line_of_a_damaged_one(directory, damage):
  _save(directory, 1)
  for path in pathlib.Path(directory / '1' / 'state').rglob('*'):
    if path.is_file() and damage(path):
      path.write_bytes(path.read_bytes().replace(*damage(path)))
  found = subprocess.run(
    kills.python(_READ, directory), capture_output=True, text=True, check=False
  )
  (line,) = found.stderr.splitlines()
  assert found.returncode == 0 and 'checkpoint 1 is damaged' in line


@pytest.mark.parametrize(
  'state, progress, message',
  [
    (
      {**_state(0), 'best_prompt': {'embeddings': jnp.zeros((3, 5))}},
      {'epochs': []},
      r'\(best_prompt/embeddings\)',
    ),
    ({'n': jnp.asarray(0)}, {'epochs': []}, 'best_prompt/embeddings, initial'),
    (_state(0), {'epochs': [], 'place': 1}, r'\(place\)'),
  ],
)
def test_a_checkpoint_of_another_structure_is_said_to_be_and_kept(
  directory, state, progress, message
):
  _save(directory, 1)
  before = _contents(directory)
  checkpoints = checkpoint.Checkpoints(directory, keep=3)
  with pytest.raises(errors.UserError, match=f'another structure .*{message}'):
    checkpoints.restore(state, progress)
  checkpoints.close()
  assert _contents(directory) == before


def test_readers_of_a_run_leave_a_damaged_checkpoint_where_it_is(directory):
  _save(directory, 1, 2)
  for path in pathlib.Path(directory / '2' / 'state' / 'd').iterdir():
    path.write_bytes(b'torn')
  before = _contents(directory)
  _, progress = checkpoint.read_best(directory)
  assert progress == {'epochs': [1]} and _contents(directory) == before


def test_the_best_prompt_is_read_without_knowing_its_shape(directory):
  _save(directory, 3)
  best, progress = checkpoint.read_best(directory)
  np.testing.assert_array_equal(best['embeddings'], np.full((3, 4), 3.0))
  assert progress == {'epochs': [3]}


def test_a_prompt_that_an_older_release_kept_as_one_array_is_refused(directory):
  checkpoints = checkpoint.Checkpoints(directory, keep=3)
  prompts = dict.fromkeys(('best_prompt', 'initial_prompt'), jnp.zeros((3, 4)))
  checkpoints.save(1, prompts, {'epochs': [1]})
  checkpoints.close()
  with pytest.raises(errors.UserError, match=r'another structure \(best_prompt\)'):
    checkpoint.read_best(directory)


def test_no_prompt_is_best_before_an_epoch_has_been_validated(directory):
  checkpoints = checkpoint.Checkpoints(directory, keep=3)
  checkpoints.save(1, _state(1), {'epochs': []})
  checkpoints.close()
  assert checkpoint.read_best(directory) is None
