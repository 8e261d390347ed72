"""One side of step.py: jaxprompt's jitted train step."""

import functools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import worker

from jaxprompt import batch as batch_lib
from jaxprompt import devices
from jaxprompt import optim
from jaxprompt import steps
from jaxprompt.lm import loading


def main(model, inputs):
  inputs = np.load(inputs)
  lm, params, _ = loading.load(model, 'float32')
  layout = devices.layout('jit', -1, 1)
  ids = inputs['ids'].astype(np.int32)
  rows, length = ids.shape
  positions = np.arange(inputs['source'], length, dtype=np.int32)
  batch = batch_lib.Batch(
    input_ids=ids,
    attention_mask=np.ones(ids.shape, bool),
    target_positions=np.tile(positions, (rows, 1)),
    loss_mask=np.ones((rows, len(positions)), bool),
  )
  tx = optim.prompt_only(0.01, clip_norm=1.0)
  prompt = lm.embed(params, jnp.asarray(inputs['prompt_ids']))
  state = layout.replicate(jax.device_get(steps.init_state(prompt, params, tx)))
  params = layout.place_params(lm, params)
  step = functools.partial(steps.train_step, lm, tx, 1, axis_name=devices.DATA)
  step = layout.spread(step, donate_argnums=0)

  def take_step():
    nonlocal state
    began = time.perf_counter()
    state, scalars = step(state, params, layout.place_rows(batch))
    loss = float(scalars['loss'])
    return {'seconds': time.perf_counter() - began, 'loss': loss}

  worker.answer({'step': take_step})


if __name__ == '__main__':
  main(*sys.argv[1:])
