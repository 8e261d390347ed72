"""Measures the host's memory while a model of random weights is loaded.

Writes a Llama of 1.5 GB in four shards to FOLDER, if it is not there, and loads it in a
process of its own as a run does:

  python tools/load_memory.py /tmp/random-llama

Prints the weights' bytes, the peak of the process's memory over what it had before, and
their ratio. On a CPU the devices' memory is the host's. Linux alone.
"""

import json
import pathlib
import re
import shutil
import sys

import jax
import numpy as np
import safetensors.numpy

from jaxprompt.devices import devices
from jaxprompt.lm import loading
from jaxprompt.lm import model
from jaxprompt.lm.families import llama

CONFIG = {
  'model_type': 'llama',
  'vocab_size': 49152,
  'hidden_size': 1024,
  'intermediate_size': 4096,
  'num_hidden_layers': 20,
  'num_attention_heads': 16,
  'tie_word_embeddings': True,
}
SHARDS = 4
TOKENIZER = pathlib.Path(__file__).parent.parent / 'tests' / 'fixtures' / 'llama'


def write(folder):
  folder.mkdir(parents=True)
  (folder / 'config.json').write_text(json.dumps(CONFIG))
  for name in ('tokenizer.json', 'tokenizer_config.json'):
    shutil.copy(TOKENIZER / name, folder)
  shapes = model.shapes(model.LanguageModel(llama.read_config('', CONFIG), np.float32))
  leaves = jax.tree.leaves_with_path(shapes)
  rng = np.random.default_rng(0)
  places = {}
  for i in range(SHARDS):
    arrays = {}
    for path, x in leaves[i::SHARDS]:
      *scope, last = (key.key for key in path)
      shape = x.shape[::-1] if last == 'kernel' else x.shape
      arrays['.'.join([*scope, 'weight'])] = rng.standard_normal(shape, np.float32)
    file = f'model-{i}.safetensors'
    places |= dict.fromkeys(arrays, file)
    safetensors.numpy.save_file(arrays, folder / file)
  index = json.dumps({'weight_map': places})
  (folder / 'model.safetensors.index.json').write_text(index)


def _memory(field):
  """Returns a field of this process's memory in /proc, in bytes."""
  status = pathlib.Path('/proc/self/status').read_text()
  return 1024 * int(re.search(rf'{field}:\s+(\d+)', status)[1])


def main(folder):
  if not folder.exists():
    write(folder)
    print('written; run it again to measure')
    return
  layout = devices.layout('jit', -1, 1)
  jax.block_until_ready(layout.replicate(np.zeros(3)))  # JAX is started
  before = _memory('VmRSS')
  params = loading.load(str(folder), 'float32', layout.placements).params
  weights = sum(x.nbytes for x in jax.tree.leaves(params))
  peak = _memory('VmHWM') - before
  print(
    f'weights {weights:,} bytes, peak {peak:,} over {before:,}: {peak / weights:.2f}'
  )


if __name__ == '__main__':
  if len(sys.argv) != 2:
    sys.exit(__doc__)
  main(pathlib.Path(sys.argv[1]))
