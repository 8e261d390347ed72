"""What a train step sends and holds, read from the compiled program; nothing is run.

python -m tools.step_traffic --devices 8 64 256 --sizes gpt2 gpt2-xl --model 1

Compiles the step of each GPT-2 size for so many devices, which XLA's CPU client only
pretends to have, and prints a Markdown table. The weights are shapes alone.
"""

import argparse
import functools
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import transformers
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from jaxprompt.devices import devices
from jaxprompt.lm import loading
from jaxprompt.lm import model as model_lib
from jaxprompt.lm.families import gpt2
from jaxprompt.prompts import batch as batch_lib
from jaxprompt.training import optim
from jaxprompt.training import steps

SIZES = {  # blocks, width, heads
  'gpt2': (12, 768, 12),
  'gpt2-medium': (24, 1024, 16),
  'gpt2-large': (36, 1280, 20),
  'gpt2-xl': (48, 1600, 25),
}
PROMPT = 20  # virtual tokens
TOKENS = 256  # a row: source and target
TARGETS = 32  # of them
# Collectives, and how many times a device sends a share of (n - 1) / n of the result's
# bytes when n devices do one in a ring.
_SENDS = {
  'all-reduce': 2,
  'all-gather': 1,
  'reduce-scatter': 1,
  'all-to-all': 1,
  'collective-permute': 1,
}
_OPERATION = re.compile(rf'= (.*?) ({"|".join(_SENDS)})(?:-start)?\(')
_ARRAY = re.compile(r'\b(pred|[a-z]+(\d+))\[([\d,]*)\]')


def collectives(text):
  """Returns [(operation, bytes of its result)] of a compiled program's text."""
  return [(name, _bytes(shape)) for shape, name in _OPERATION.findall(text)]


def _bytes(shape):
  total = 0
  for kind, bits, sizes in _ARRAY.findall(shape):
    width = 1 if kind == 'pred' else int(bits) // 8
    total += width * int(np.prod([int(size) for size in sizes.split(',') if size]))
  return total


def compile_step(
  layout, lm, params, *, rows, prompt=PROMPT, tokens=TOKENS, targets=TARGETS
):
  """Compiles a data-parallel train step from shapes alone.

  Args:
    layout: a `devices.Layout` over a mesh.
    lm: `lm.model.LanguageModel`.
    params: the shapes and dtypes of its weights.
    rows: of the batch, over all devices.
    prompt, tokens, targets: the program's P, T and N.
  """

  def placed(x, spec):
    return jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=NamedSharding(layout.mesh, spec)
    )

  def row_arrays(dtype, *shape):
    return placed(
      jax.ShapeDtypeStruct((rows, *shape), dtype), PartitionSpec(devices.DATA)
    )

  tx = optim.prompt_only(0.05, clip_norm=1.0)
  embeddings = jax.ShapeDtypeStruct((prompt, lm.spec.width), jnp.float32)
  start = {'embeddings': embeddings}
  state = jax.eval_shape(lambda *x: steps.init_state(*x, tx), start, params)
  state = jax.tree.map(lambda x: placed(x, PartitionSpec()), state)
  batch = batch_lib.Batch(
    input_ids=row_arrays(jnp.int32, tokens),
    attention_mask=row_arrays(jnp.bool_, tokens),
    target_positions=row_arrays(jnp.int32, targets),
    loss_mask=row_arrays(jnp.bool_, targets),
  )
  step = functools.partial(steps.train_step, lm, tx, steps.Options(1, devices.DATA))
  params = jax.tree.map(placed, params, layout.partition(lm, params))
  return layout.spread(step, donate_argnums=0).lower(state, params, batch).compile()


def _row(name, count, share, rows, dtype):
  blocks, width, heads = SIZES[name]
  config = transformers.GPT2Config(n_layer=blocks, n_embd=width, n_head=heads)
  mesh = np.reshape(jax.devices()[:count], (count // share, share))
  layout = devices.MODES['jit'](jax.sharding.Mesh(mesh, (devices.DATA, devices.MODEL)))
  spec = gpt2.read_config('', config.to_diff_dict())
  lm = model_lib.LanguageModel(spec, dtype).on(layout.platform)
  params = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, dtype), model_lib.shapes(lm)
  )
  compiled = compile_step(layout, lm, params, rows=rows * count // share)
  found = collectives(compiled.as_text())
  sent = sum(_SENDS[operation] * size for operation, size in found)
  memory = compiled.memory_analysis()
  temporary = memory.temp_size_in_bytes
  weights = memory.argument_size_in_bytes
  return [
    name,
    f'{count // share} x {share}',
    str(len(found)),
    f'{sent / 1e6:,.2f}',
    f'{weights / 1e9:.2f}',
    f'{(weights + temporary) / 1e9:.2f}',
  ]


def _arguments():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--sizes', nargs='+', choices=SIZES, default=list(SIZES))
  parser.add_argument('--devices', nargs='+', type=int, default=[8, 64, 256])
  parser.add_argument(
    '--model', type=int, default=1, help='devices sharing the weights'
  )
  parser.add_argument('--rows', type=int, default=8, help='for each share of the data')
  parser.add_argument('--dtype', choices=loading.DTYPES, default='float32')
  return parser.parse_args()


def main():
  arguments = _arguments()
  # Read when JAX first looks for devices. What is compiled here is never run.
  os.environ['XLA_FLAGS'] = (
    f'--xla_force_host_platform_device_count={max(arguments.devices)} '
    '--xla_backend_optimization_level=0'
  )
  head = ['model', 'data x model', 'collectives', 'MB sent', 'GB held', 'GB at peak']
  for cells in (head, ['---'] * len(head)):
    print(f'| {" | ".join(cells)} |')
  for name in arguments.sizes:
    for count in arguments.devices:
      cells = _row(
        name, count, arguments.model, arguments.rows, loading.DTYPES[arguments.dtype]
      )
      print(f'| {" | ".join(cells)} |', flush=True)


if __name__ == '__main__':
  main()
