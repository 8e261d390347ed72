"""Hugging Face PEFT's adapter directories for prompts: write one, read one.

The format is PEFT 0.21's for a causal model: adapter_config.json, and
adapter_model.safetensors with the one array `prompt_embeddings`, float32. Never pickle.

  `PROMPT_TUNING`, and `P_TUNING`, which is read alone: virtual tokens, [P, H].
  `PREFIX_TUNING`: keys and values, [P, blocks * 2 * G * D].

What PEFT trains through a network (`P_TUNING`, `prefix_projection`) it saves as the
network's output.
"""

import json
import logging
import math
import pathlib

import numpy as np
import safetensors
import safetensors.numpy

from jaxprompt import errors
from jaxprompt.prompts import exported
from jaxprompt.prompts import kinds

log = logging.getLogger(__name__)

CONFIG, WEIGHTS = 'adapter_config.json', 'adapter_model.safetensors'
_KEY = 'prompt_embeddings'
_WEIGHTS_KEY = 'base_model_weights'  # in the metadata, of which PEFT reads `format`
_VERSION = '0.21.2'  # the release whose files these are

_CARD = """---
base_model: {base}
library_name: peft
tags:
- {tuning}
{tag}---

# {name}

A soft prompt of {length} virtual tokens for `{base}`, trained with jaxprompt on
{task}. It expects the template that it was trained with: the source, a newline, and
then the model writes the target after one space:

{template}
"""


# What PEFT calls the array of each kind.
_EMBEDDINGS, _KEYS_VALUES = 'PROMPT_TUNING', 'PREFIX_TUNING'
_READ = {_EMBEDDINGS: 'embedding', 'P_TUNING': 'embedding', _KEYS_VALUES: 'deep'}


def files_of(prompt, *, base, weights, spec, name, task, template, ranked):
  """Returns the files of an adapter that `peft.PeftModel.from_pretrained` loads.

  Args:
    prompt: its arrays, see `kinds`, folded.
    base: the frozen model's hub id or path.
    weights: the fingerprint of its weights.
    spec: `lm.spec.Spec` of the model.
    name, task, template: for the model card.
    ranked: what it says of labels, see `exported.ranked`.

  Returns:
    {name: bytes}.
  """
  length = kinds.length(prompt)
  array, own = _stored(prompt, spec)
  config = {
    'auto_mapping': None,
    'base_model_name_or_path': base,
    'inference_mode': True,
    'modules_to_save': None,
    'num_transformer_submodules': 1,
    'num_virtual_tokens': length,
    'peft_version': _VERSION,
    'revision': None,
    'task_type': 'CAUSAL_LM',
    **_sizes(own['peft_type'], spec),
    **own,
  }
  array = np.ascontiguousarray(array, np.float32)
  card = _CARD.format(
    base=exported.shown(base),  # adapter_config.json has what loads it
    name=name,
    length=length,
    task=task,
    template=template,
    tuning=own['peft_type'].lower().replace('_', '-'),
    tag=exported.TAG,
  )
  return {
    WEIGHTS: safetensors.numpy.save(
      {_KEY: array}, metadata={'format': 'pt', _WEIGHTS_KEY: weights}
    ),
    exported.README: (card + ranked).encode(),
    CONFIG: json.dumps(config, indent=2, sort_keys=True).encode(),
  }


def _stored(prompt, spec):
  """Returns the array of a prompt as PEFT has it, and the config of its kind."""
  if 'keys_values' not in prompt:
    return prompt['embeddings'], {
      'peft_type': _EMBEDDINGS,
      # Whatever it began as: the other kinds would ask for a tokenizer when loaded.
      'prompt_tuning_init': 'RANDOM',
      'prompt_tuning_init_text': None,
      'tokenizer_kwargs': None,
      'tokenizer_name_or_path': None,
    }
  by_token = np.moveaxis(prompt['keys_values'], 3, 0)  # [P, blocks, 2, G, D]
  return by_token.reshape(len(by_token), -1), {
    'peft_type': _KEYS_VALUES,
    'encoder_hidden_size': spec.kv_heads * spec.head_dim,
    'init_weights': None,
    'prefix_projection': False,
  }


def _sizes(peft_type, spec):
  """Returns the sizes of a model as an adapter's config names them."""
  if peft_type == _KEYS_VALUES:
    heads, width = spec.kv_heads, spec.kv_heads * spec.head_dim
  else:
    heads, width = spec.heads, spec.width
  return {'num_attention_heads': heads, 'num_layers': spec.blocks, 'token_dim': width}


def is_ours(directory, names):
  """Returns whether a directory of such names is an adapter of `files_of` alone."""
  return names == {WEIGHTS, exported.README, CONFIG} and exported.is_tagged(directory)


def read(directory, *, base, weights, spec):
  """Returns the prompt of an adapter, float32 arrays as of `kinds`.

  Args:
    directory: a path.
    base: the hub id or path of the frozen model that it is for.
    weights: the fingerprint of that model's weights. An adapter that keeps none is
      judged by the model's sizes and name.
    spec: `lm.spec.Spec` of that model.

  Raises:
    UserError: if it is no prompt, of another model, or damaged.
  """
  directory = pathlib.Path(directory)
  with _readable(directory):
    config = dict(json.loads((directory / CONFIG).read_text()))
    # Not `load_file`, which knows no bfloat16.
    with safetensors.safe_open(directory / WEIGHTS, framework='numpy') as f:
      names = f.keys()
      arrays = {name: f.get_tensor(name) for name in names}
      theirs = (f.metadata() or {}).get(_WEIGHTS_KEY)
  _check(directory, config, spec)
  if theirs is None:
    _check_name(directory, config.get('base_model_name_or_path'), base)
  elif theirs != weights:
    raise errors.UserError(
      f'the adapter {str(directory)!r} was trained with other weights than those of '
      f'{base!r}; use the model that it was trained with'
    )
  is_deep = _READ[config['peft_type']] == 'deep'
  inner = (spec.blocks, 2, spec.kv_heads, spec.head_dim) if is_deep else (spec.width,)
  shape = (config.get('num_virtual_tokens'), math.prod(inner))
  if list(arrays) != [_KEY] or arrays[_KEY].shape != shape:
    found = ', '.join(f'{name} {array.shape}' for name, array in arrays.items())
    raise errors.UserError(
      f'the adapter {str(directory)!r} holds {found or "nothing"}; expected {_KEY} '
      f'{shape}, virtual tokens by width'
    )
  array = arrays[_KEY].astype(np.float32)
  if not np.isfinite(array).all():
    raise errors.UserError(
      f'the adapter {str(directory)!r} holds numbers that are not finite; train it anew'
    )
  if is_deep:
    return {'keys_values': np.moveaxis(array.reshape(-1, *inner), 0, 3)}
  return {'embeddings': array}


def kind_and_length(directory):
  """Returns the kind of an adapter's prompt, and P, by its config.

  Raises:
    UserError: if it cannot be read.
  """
  with _readable(directory):
    config = json.loads((directory / CONFIG).read_text())
    _check_one_of(directory, config, 'peft_type', [*_READ])
    return _READ[config['peft_type']], config['num_virtual_tokens']


def _readable(directory):
  return errors.reading(
    f'the adapter {str(directory)!r}',
    f'expected a directory with {CONFIG} and {WEIGHTS}, as PEFT saves it',
  )


def _check_one_of(directory, config, key, expected):
  if config.get(key) not in expected:
    raise errors.UserError(
      f'the adapter {str(directory)!r} has {key} {config.get(key)!r:.60}; expected '
      f'{" or ".join(expected)}'
    )


def _check(directory, config, spec):
  """Raises `UserError` if an adapter's config is not of a prompt for this model."""
  _check_one_of(directory, config, 'peft_type', [*_READ])
  _check_one_of(directory, config, 'task_type', ['CAUSAL_LM'])
  for key, expected in _sizes(config['peft_type'], spec).items():
    if config.get(key) not in (None, expected):
      raise errors.UserError(
        f'the adapter {str(directory)!r} has {key} {config[key]}, the model has '
        f'{expected}; use the model that it was trained with'
      )


def _check_name(directory, theirs, base):
  """Raises `UserError` if an adapter names another model."""
  # By the last part alone: the same model may be a hub id here and a directory there.
  if theirs and pathlib.PurePath(theirs).name != pathlib.PurePath(base).name:
    raise errors.UserError(
      f'the adapter {str(directory)!r} is of the model {theirs!r}, not {base!r}; use '
      f'that one, or correct base_model_name_or_path in {CONFIG} if they are the same'
    )
  log.warning(
    'the adapter %s keeps no fingerprint: that it was trained with the weights of %s '
    'follows from sizes and names alone',
    directory,
    base,
  )
