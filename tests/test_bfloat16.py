"""bfloat16: weights and compute alone; what is trained and measured stays float32."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import CHECKPOINT

from jaxprompt import embedded
from jaxprompt.data import collate
from jaxprompt.data import rows as rows_lib
from jaxprompt.data import sources
from jaxprompt.lm import loading
from jaxprompt.prompts import kinds
from jaxprompt.prompts import placement
from jaxprompt.prompts import prompt
from jaxprompt.tasks import tasks
from jaxprompt.tasks import template
from jaxprompt.training import optim
from jaxprompt.training import steps


def test_bfloat16_leaves_the_loss_of_every_task_within_one_percent():
  """On the embedded model and data, with the hard text as soft prompt."""
  losses = {}
  for dtype in loading.DTYPES:
    lm, params, tokenizer, _ = loading.load('tiny', dtype)
    row_losses = jax.jit(functools.partial(steps.row_losses, lm))
    for name, task in tasks.TASKS.items():
      split = sources.read(embedded.data_path('tiny', name), '')['test']
      rows = rows_lib.load(
        template.Template(tokenizer),
        task,
        split,
        size=24,
        max_source_tokens=96,
        max_target_tokens=30,
      ).rows
      batch = collate.collate(rows, (128, 31), 24, tokenizer.eos_token_id)
      text_ids, _ = template.encode(tokenizer, task.hard_prompt)
      table = lm.embed(params, np.arange(lm.spec.vocab_size))
      soft_prompt = prompt.from_text(jnp.asarray(table), 12, text_ids=text_ids)
      nats, counts = row_losses(params, placement.place(soft_prompt, 'prefix'), batch)
      losses[name, dtype] = float(jnp.sum(nats) / jnp.sum(counts))
  for name in tasks.TASKS:
    close = pytest.approx(losses[name, 'float32'], rel=0.01)
    assert losses[name, 'bfloat16'] == close, name


def test_in_bfloat16_the_prompt_and_its_moments_stay_float32(batch):
  lm, params, *_ = loading.load(str(CHECKPOINT), 'bfloat16')
  tx = optim.prompt_only(0.1, clip_norm=1.0)
  state = steps.init_state({'embeddings': jnp.ones((5, 24))}, params, tx)
  before = jax.tree.map(lambda x: x.dtype, state)
  step = functools.partial(steps.train_step, lm, tx, steps.Options())
  state, scalars = jax.eval_shape(step, state, params, batch)
  assert jax.tree.map(lambda x: x.dtype, state) == before
  assert state.prompt['embeddings'].dtype == scalars['loss'].dtype == jnp.float32


@pytest.mark.parametrize(
  ('kind', 'position'),
  [('embedding', 'prefix'), ('embedding', 'suffix'), ('deep', 'prefix')],
)
def test_in_bfloat16_the_rows_gradients_are_summed_in_float32(
  batch, soft_prompt, kind, position
):
  """A sum in bfloat16 of rows that are alike stays where it is from 256 on."""
  lm, params, *_ = loading.load(str(CHECKPOINT), 'bfloat16')
  prompt = kinds.KINDS[kind](lm, params, soft_prompt, jax.random.key(0))
  gradient = jax.jit(steps.prompt_gradient, static_argnums=(0, 4))
  row = jax.tree.map(lambda x: x[:1], batch)
  if position == 'suffix':
    source = {'source_ids': row.input_ids, 'source_mask': row.attention_mask}
    row = dataclasses.replace(row, **source)
  count = 512
  rows = jax.tree.map(lambda x: jnp.tile(x, (count, 1)), row)
  lowered = gradient.lower(lm, params, prompt, rows, 1)
  (_, one), (_, total) = (
    gradient(lm, params, prompt, row, 1),
    lowered.compile()(params, prompt, rows),
  )
  (one,), (total,) = map(jax.tree.leaves, (one, total))
  assert jnp.linalg.norm(total / count - one) < 0.02 * jnp.linalg.norm(one)
  # A CPU would sum in float32 all the same.
  in_bfloat16 = rf'applies stablehlo\.add .*tensor<{count}x[\dx]*bf16>'
  assert not re.search(in_bfloat16, lowered.as_text())
