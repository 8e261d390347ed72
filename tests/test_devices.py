"""Devices: whatever their number and layout, the results are one device's.

These tests hold for any number of devices, and are run again with more of them.
"""

import dataclasses
import functools
import os
import subprocess
import sys
import types

import jax
import jax.extend.core
import numpy as np
import pytest
import transformers
from conftest import train_step
from conftest import with_devices

from jaxprompt import errors
from jaxprompt.data import loader
from jaxprompt.data import rows as rows_lib
from jaxprompt.devices import devices
from jaxprompt.infer import decode
from jaxprompt.infer import evaluate
from jaxprompt.lm import model as lm_model
from jaxprompt.lm.families import gpt2 as gpt2_family
from jaxprompt.lm.families import llama as llama_family
from jaxprompt.lm.families import phi3 as phi3_family
from jaxprompt.prompts import kinds
from jaxprompt.prompts import placement
from jaxprompt.runs import setup
from jaxprompt.training import optim
from jaxprompt.training import steps
from tools import hlo

# For each of the models below, a token that it says early or late, or not at all.
ENDS = {'gpt2': 14, 'phi3': 24}
COUNT = jax.device_count()
LAYOUTS = [('jit', -1, 1), ('pmap', -1, 1)]
# Eight devices cannot have some each of the four heads; they do cut the width.
SHARED = [('jit', -1, size) for size in (4, 8) if COUNT == 8]


def _on_hosts(rows):
  """Returns what stands for a mesh whose devices are of these processes."""
  found = [[types.SimpleNamespace(process_index=i) for i in row] for row in rows]
  shape = dict(zip((devices.DATA, devices.MODEL), np.shape(rows), strict=True))
  return types.SimpleNamespace(devices=np.array(found), shape=shape)


@pytest.mark.parametrize(
  'rows',
  [
    [[0], [0], [1], [1]],
    [[0], [1], [1], [0]],
    [[0, 0], [1, 1]],
    [[0, 0, 1, 1]],
    # Tiles of a torus: four processes have the same four rows.
    [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]],
  ],
)
def test_processes_whose_shares_of_a_batch_are_alike_have_a_layout(rows):
  devices._check_shares(_on_hosts(rows))


@pytest.mark.parametrize(
  'rows',
  [
    [[0], [1], [1]],
    [[0, 0], [0, 1], [1, 1]],  # both have two rows, and share one
    [[0, 0, 1], [1, 2, 2]],
  ],
)
def test_processes_with_shares_of_other_sizes_are_refused(rows):
  with pytest.raises(errors.UserError, match="divides a process's devices, or is a mu"):
    devices._check_shares(_on_hosts(rows))


def _one_device():
  mesh = jax.sharding.Mesh([[jax.devices()[0]]], (devices.DATA, devices.MODEL))
  return devices.MODES['jit'](mesh)


def _gpt2():
  config = transformers.GPT2Config(
    vocab_size=36, n_embd=16, n_layer=1, n_head=4, n_positions=48
  )
  return gpt2_family.read_config('', config.to_diff_dict())


def _llama():
  config = transformers.LlamaConfig(
    vocab_size=30,
    hidden_size=16,
    intermediate_size=40,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=48,
  )
  return llama_family.read_config('', config.to_diff_dict())


def _phi3():
  """Query, key and value are one weight, gate and up another; a window of 5 tokens."""
  sizes = {
    'vocab_size': 30,
    'hidden_size': 16,
    'intermediate_size': 40,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'max_position_embeddings': 48,
    'sliding_window': 5,
  }
  return phi3_family.read_config('', sizes)


# Four heads each. Four devices divide the vocabulary of one, and not the other's.
FAMILIES = {'gpt2': _gpt2, 'llama': _llama, 'phi3': _phi3}


@functools.cache
def _model(family):
  """Returns a random model, with weights so large that its rows differ and end."""
  lm = lm_model.LanguageModel(FAMILIES[family](), np.float32)
  rng = np.random.default_rng(1)
  return lm, jax.tree.map(
    lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32), lm_model.shapes(lm)
  )


@pytest.fixture(scope='module')
def rows():
  """21 rows of 6 to 17 tokens."""
  rng = np.random.default_rng(0)

  def ids(low, high):
    return rng.integers(1, 30, rng.integers(low, high)).astype(np.int32)

  return rows_lib.table(
    *zip(*((ids(4, 12), ids(2, 6)) for _ in range(21)), strict=True)
  )


def _train(layout, model, rows, kind, position, accumulate, optimizer):
  """Takes 20 steps as a run does; returns the prompt and each step's scalars."""
  lm, params = model
  own = optim.resolve(optimizer, weight_decay=0.0, beta1=0.9, beta2=0.999)
  tx = optim.prompt_only(0.01, clip_norm=1.0, optimizer=own)
  embeddings = np.random.default_rng(1).normal(size=(3, lm.spec.width))
  begin = jax.jit(kinds.KINDS[kind], static_argnums=0)
  prompt = begin(lm, params, embeddings.astype(np.float32), jax.random.key(0))
  options = steps.Options(accumulate, devices.DATA)
  step = functools.partial(steps.train_step, lm, tx, options)
  step = layout.spread(step, donate_argnums=0)
  placed = layout.place_params(lm, params)
  state = layout.replicate(jax.device_get(steps.init_state(prompt, params, tx)))
  batches = loader.Loader(
    rows, layout, batch_size=16, pad_id=1, apart=position == 'suffix'
  )
  scalars = []
  for epoch in range(10):  # of a full batch and one of 5 rows
    for indices, shape in batches.epoch(0, epoch):
      batch, _ = batches.load(indices, shape)
      state, found = step(state, placed, batch)
      scalars.append(jax.device_get(found))
  return jax.device_get(kinds.fold(state.prompt)), scalars


@pytest.mark.parametrize(
  'family, kind, position, accumulate, optimizer',
  [
    ('gpt2', 'embedding', 'prefix', 1, 'adamw'),
    ('llama', 'embedding', 'suffix', 2, 'adamw'),
    ('gpt2', 'deep', 'suffix', 2, 'adafactor'),
    ('llama', 'deep', 'prefix', 1, 'adamw'),
    ('gpt2', 'residual', 'prefix', 1, 'prodigy'),
  ],
)
def test_training_is_one_devices(rows, family, kind, position, accumulate, optimizer):
  model, setting = _model(family), (kind, position, accumulate, optimizer)
  prompt, scalars = _train(_one_device(), model, rows, *setting)
  for each in LAYOUTS + SHARED:
    layout = devices.layout(*each)
    found, found_scalars = _train(layout, model, rows, *setting)
    for name, array in found.items():
      expected, said = prompt[name], str(each)
      np.testing.assert_allclose(array, expected, rtol=0, atol=1e-6, err_msg=said)
    for expected, got in zip(scalars, found_scalars, strict=True):
      assert got['tokens'] == expected['tokens']
      np.testing.assert_allclose(got['loss'], expected['loss'], rtol=1e-6)


def _measure(layout, family, rows, beams, members):
  """Returns what an evaluation computes: nats, counts, output ids."""
  (lm, params), end = _model(family), ENDS[family]
  options = decode.Options(5, (end,), beams, members, axis_name=devices.DATA)
  row_losses, generate, _ = setup.programs(lm, layout, options, 'none')
  evaluator = evaluate.Evaluator(
    task=None,
    template=types.SimpleNamespace(end_id=end, end_ids=(end,)),
    layout=layout,
    params=layout.place_params(lm, params),
    row_losses=row_losses,
    generate=generate,
    score=None,
    calibration='none',
    batch_size=layout.round_up(6),
    progress=lambda batches, label: batches,
  ).shared(members)
  prompts = np.random.default_rng(2).normal(size=(members, 3, lm.spec.width))
  arms = [placement.place(each.astype(np.float32), 'prefix') for each in prompts]
  arm = placement.stack(arms) if members > 1 else arms[0]
  found = (
    evaluate.losses(evaluator, arm, rows, ''),
    evaluate.generate(evaluator, arm, rows, ''),
  )
  return *found[0], found[1]


@pytest.mark.skipif(COUNT == 1, reason='the tests of whole runs are about one device')
@pytest.mark.parametrize(
  'family, beams, members', [('gpt2', 2, 1), ('phi3', 1, 1), ('gpt2', 1, 3)]
)
def test_evaluation_is_one_devices(rows, family, beams, members):
  nats, counts, outputs = _measure(_one_device(), family, rows, beams, members)
  assert len({len(output) for output in outputs}) > 1
  for each in LAYOUTS + SHARED:
    found = _measure(devices.layout(*each), family, rows, beams, members)
    np.testing.assert_allclose(found[0], nats, rtol=1e-5, err_msg=str(each))
    np.testing.assert_array_equal(found[1], counts)
    assert found[2] == outputs, each


def test_shared_weights_are_whole_on_no_device():
  lm, params = _model('gpt2')
  for mode, data, size in SHARED:
    placed = devices.layout(mode, data, size).place_params(lm, params)
    held = sum(x.addressable_data(0).nbytes for x in jax.tree.leaves(placed))
    cut = ('attn', 'mlp', 'wte')
    whole = sum(
      x.nbytes if any(part in jax.tree_util.keystr(path) for part in cut) else 0
      for path, x in jax.tree_util.tree_leaves_with_path(params)
    )
    rest = sum(x.nbytes for x in jax.tree.leaves(params)) - whole
    assert held < 1.1 * whole / size + rest


@pytest.mark.parametrize(
  'sizes, message',
  [
    ((3, 5), f'parallel.data (3) x parallel.model (5) does not make {COUNT}, the'),
    ((-1, 16), f'parallel.data (-1) x parallel.model (16) does not make {COUNT}'),
    ((-2, -COUNT), 'does not make'),
    ((-1, -1), 'does not make'),
  ],
)
def test_sizes_that_do_not_make_the_devices_are_refused(sizes, message):
  with pytest.raises(errors.UserError) as e:
    devices.layout('jit', *sizes)
  assert message in str(e.value)


@pytest.mark.skipif(COUNT == 1, reason='one device divides everything')
def test_what_the_devices_cannot_divide_is_refused():
  lm, params = _model('gpt2')
  with pytest.raises(errors.UserError, match='shares no weights; use jit'):
    devices.layout('pmap', -1, 2)
  with pytest.raises(errors.UserError, match=f'is 9, which the {COUNT} devices'):
    devices.layout('jit', -1, 1).check_divides(9)
  odd = dataclasses.replace(lm, spec=dataclasses.replace(lm.spec, width=15))
  with pytest.raises(
    errors.UserError, match=f'is {COUNT}, which does not divide the w'
  ):
    devices.layout('jit', 1, COUNT).place_params(odd, params)


def _sent(family, model):
  """Returns a model's functions, and its step's `hlo.Collective`s.

  Args:
    family: a key of the fixtures.
    model: devices that share the weights.
  """
  lm, _ = _model(family)
  layout = devices.layout('jit', -1, model)
  step = train_step(lm, layout, rows=16, prompt=3, tokens=9, targets=4)
  return lm, hlo.collectives(step.traced().lower().compile().as_text())


@pytest.mark.perf
@pytest.mark.skipif(COUNT == 1, reason='one device sends nothing')
def test_a_step_sends_the_prompts_gradient_and_scalars():
  lm, sent = _sent('gpt2', 1)
  assert {each.operation for each in sent} == {'all-reduce'}
  gradient, loss_count_and_tokens = 4 * 3 * lm.spec.width, 4 * 3
  assert sum(each.size * each.times for each in sent) == (
    gradient + loss_count_and_tokens
  )


@pytest.mark.perf
@pytest.mark.skipif(COUNT == 1, reason='one device shares nothing')
def test_shared_heads_and_weights_are_summed_never_gathered():
  _, sent = _sent('llama', 2)
  assert {each.operation for each in sent} == {'all-reduce'}


@pytest.mark.skipif(COUNT > 1, reason='it is what runs these tests on more devices')
def test_it_holds_for_two_and_eight_devices():
  only = {2: 'training', 8: ''}
  command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', __file__]
  runs = {
    count: subprocess.Popen(
      [*command, '-k', only[count]],
      env=os.environ | with_devices(count),
      stdout=subprocess.PIPE,
      text=True,
    )
    for count in only
  }
  for count, run in runs.items():
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 0, f'{count} devices\n{output}'
