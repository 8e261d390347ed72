"""Where a checkpoint's weights may be, for every family."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
from conftest import FAMILIES
from conftest import FIXTURES
from flax import serialization
from hub import serve

from jaxprompt import errors
from jaxprompt.lm import loading


@pytest.fixture(params=FAMILIES)
def folder(request, tmp_path):
  """A copy of a checkpoint to edit."""
  return shutil.copytree(FIXTURES / request.param, tmp_path / 'models' / request.param)


def _params(folder, dtype='float32'):
  return loading.load(str(folder), dtype)[1]


def _take_arrays(folder):
  """Returns the arrays by their names, and removes their file."""
  arrays = safetensors.flax.load_file(folder / 'model.safetensors')
  (folder / 'model.safetensors').unlink()
  return arrays


def _into_shards(folder, dtype=jnp.bfloat16):
  """Stores the weights as large checkpoints do: of two bytes, in several files."""
  arrays = _take_arrays(folder)
  names = sorted(arrays)
  places = {}
  for i in range(2):
    shard, chosen = f'model-0000{i + 1}-of-00002.safetensors', names[i::2]
    rounded = {name: arrays[name].astype(dtype) for name in chosen}
    safetensors.flax.save_file(rounded, folder / shard, metadata={'format': 'pt'})
    places |= dict.fromkeys(chosen, shard)
  index = {'metadata': {}, 'weight_map': places}
  (folder / 'model.safetensors.index.json').write_text(json.dumps(index))


def test_weights_in_shards_and_in_bfloat16_are_the_same_rounded(folder):
  whole = _params(folder, 'bfloat16')
  _into_shards(folder)
  sharded = _params(folder)
  jax.tree.map(np.testing.assert_array_equal, sharded, whole)
  assert {leaf.dtype for leaf in jax.tree.leaves(sharded)} == {jnp.dtype('float32')}


def test_weights_in_shards_and_in_float16_are_the_same_rounded(folder):
  whole = _params(folder)
  _into_shards(folder, jnp.float16)
  sharded = _params(folder)
  jax.tree.map(
    lambda x, y: np.testing.assert_array_equal(x, y.astype(np.float16)), sharded, whole
  )
  assert {leaf.dtype for leaf in jax.tree.leaves(sharded)} == {jnp.dtype('float32')}


@pytest.mark.parametrize('folder', FAMILIES[:2], indirect=True)
def test_shards_come_from_the_hub_and_then_from_its_cache(folder, tmp_path):
  _into_shards(folder)
  script = f"from jaxprompt.lm import loading; loading.load('{folder.name}', 'float32')"
  with serve(tmp_path) as hub:
    environment = hub.environment(tmp_path / 'home')
    subprocess.run([sys.executable, '-c', script], env=environment, check=True)
  offline = {**environment, 'HF_HUB_OFFLINE': '1'}
  subprocess.run([sys.executable, '-c', script], env=offline, check=True)


def test_a_base_model_without_its_head_has_shorter_names(folder):
  """As the hub's GPT-2 has: h.0.ln_1.weight, not transformer.h.0.ln_1.weight."""
  expected = _params(folder)
  arrays = {name.partition('.')[2]: x for name, x in _take_arrays(folder).items()}
  safetensors.flax.save_file(arrays, folder / 'model.safetensors')
  jax.tree.map(np.testing.assert_array_equal, _params(folder), expected)


def test_what_flax_has_saved_is_read(folder):
  expected = _params(folder)
  _take_arrays(folder)
  file = folder / 'flax_model.msgpack'
  file.write_bytes(serialization.msgpack_serialize(expected))
  jax.tree.map(np.testing.assert_array_equal, _params(folder), expected)
  file.write_bytes(file.read_bytes()[:1000])
  with pytest.raises(errors.UserError, match=r'flax_model.msgpack cannot be read: '):
    _params(folder)


@pytest.mark.parametrize('name', ['pytorch_model.bin', 'flax.safetensors'])
def test_weights_of_no_such_file_are_refused(folder, name):
  (folder / 'model.safetensors').rename(folder / name)
  with pytest.raises(errors.UserError, match=r'has no model.safetensors, .* convert'):
    _params(folder)
