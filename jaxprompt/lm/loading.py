"""Loads a checkpoint: its family's functions, its weights, and the tokenizer it had."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import transformers

from jaxprompt import embedded
from jaxprompt import errors
from jaxprompt import hub
from jaxprompt.lm import gpt2
from jaxprompt.lm import llama
from jaxprompt.lm import model
from jaxprompt.lm import weights

FAMILIES = {'gpt2': gpt2.read_config, 'llama': llama.read_config}
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


def load(path, dtype):
  """Loads a frozen model.

  Args:
    path: a hub id, a local directory, or `tiny`, the embedded one.
    dtype: a key of `DTYPES`.

  Returns:
    `model.LanguageModel`, its weights in `dtype` on the host, and the tokenizer.

  Raises:
    UserError: if the checkpoint is missing, incomplete, of another architecture, has
      no weights but pickled ones, or a tokenizer that is not its own.
  """
  path = embedded.model_path(path)
  folder = pathlib.Path(path).expanduser()
  if folder.is_dir() or folder.is_absolute() or path.startswith(('.', '~')):
    _check_directory(folder)
    path = str(folder)
  else:
    hub.require(path, 'model', 'model.path')
  with hub.one_line(path, 'model.path'):
    config, _ = transformers.PretrainedConfig.get_config_dict(path)
    kind = config.get('model_type')
    if kind not in FAMILIES:
      raise errors.UserError(
        f'model.path {path!r} has model_type {kind!r}; expected one of '
        f'{", ".join(FAMILIES)}'
      )
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    with jax.default_device(_host()):
      lm = model.LanguageModel(FAMILIES[kind](path, config), DTYPES[dtype])
      params = weights.read(path, model.shapes(lm))
  _check_tokenizer(path, tokenizer, lm.spec.vocab_size, config.get('eos_token_id'))
  return lm, jax.tree.map(lambda x: np.asarray(x, DTYPES[dtype]), params), tokenizer


def _host():
  """Returns the CPU, so that no accelerator has to hold a model alone."""
  try:
    return jax.local_devices(backend='cpu')[0]
  except RuntimeError:  # JAX_PLATFORMS leaves it out
    return None


def _check_directory(folder):
  if not folder.is_dir():
    raise errors.UserError(
      f'model.path {str(folder)!r} is not a directory; expected a checkpoint directory '
      'or the id of a model on the hub'
    )
  if not (folder / 'config.json').is_file():
    raise errors.UserError(
      f'model.path {str(folder)!r} has no config.json; expected a checkpoint directory '
      'with config.json, weights and tokenizer'
    )


def _check_tokenizer(path, tokenizer, vocab_size, eos_token_id):
  if not tokenizer.is_fast:
    raise errors.UserError(
      f'model.path {path!r} has no fast tokenizer; save one there with '
      'transformers.AutoTokenizer (tokenizer.json)'
    )
  # Chat models list several ends of text; the one that ours is must be among them.
  ends = eos_token_id if isinstance(eos_token_id, list) else [eos_token_id]
  if len(tokenizer) > vocab_size or tokenizer.eos_token_id not in ends:
    raise errors.UserError(
      f'model.path {path!r} has a tokenizer of {len(tokenizer)} tokens with end of '
      f'text {tokenizer.eos_token_id}, a model of {vocab_size} with {eos_token_id}; '
      "put the model's own tokenizer there"
    )
