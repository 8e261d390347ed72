"""Hugging Face PEFT's adapter directories for prompt tuning: write one, read one.

The format is PEFT 0.21's for `PROMPT_TUNING` of a causal model: adapter_config.json,
and adapter_model.safetensors with the one array `prompt_embeddings`, [P, H] float32.
Never pickle.
"""

import json
import pathlib

import numpy as np
import safetensors
import safetensors.numpy

from jaxprompt import errors

CONFIG, WEIGHTS = 'adapter_config.json', 'adapter_model.safetensors'
_KEY = 'prompt_embeddings'
_VERSION = '0.21.2'  # the release whose files these are

_CARD = """---
base_model: {base}
library_name: peft
tags:
- prompt-tuning
- jaxprompt
---

# {name}

A soft prompt of {length} virtual tokens for `{base}`, trained with jaxprompt on
{task}. It expects the template that it was trained with: the source, a newline, and
then the model writes the target after one space:

{template}
"""


def write(directory, soft_prompt, *, base, blocks, heads, name, task, template):
  """Writes an adapter that `peft.PeftModel.from_pretrained` loads.

  Args:
    directory: a pathlib path; made if missing.
    soft_prompt: [P, H].
    base: the frozen model's hub id or path.
    blocks, heads: of the frozen model.
    name, task, template: for the model card.
  """
  length, width = soft_prompt.shape
  config = {
    'auto_mapping': None,
    'base_model_name_or_path': base,
    'inference_mode': True,
    'modules_to_save': None,
    'num_attention_heads': heads,
    'num_layers': blocks,
    'num_transformer_submodules': 1,
    'num_virtual_tokens': length,
    'peft_type': 'PROMPT_TUNING',
    'peft_version': _VERSION,
    # Whatever it began as: the other kinds would ask for a tokenizer when loaded.
    'prompt_tuning_init': 'RANDOM',
    'prompt_tuning_init_text': None,
    'revision': None,
    'task_type': 'CAUSAL_LM',
    'token_dim': width,
    'tokenizer_kwargs': None,
    'tokenizer_name_or_path': None,
  }
  directory.mkdir(parents=True, exist_ok=True)
  array = np.ascontiguousarray(soft_prompt, np.float32)
  safetensors.numpy.save_file(
    {_KEY: array}, directory / WEIGHTS, metadata={'format': 'pt'}
  )
  (directory / 'README.md').write_text(
    _CARD.format(base=base, name=name, length=length, task=task, template=template)
  )
  # Last: a directory without it is no adapter.
  (directory / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True))


def read(directory):
  """Returns the soft prompt of an adapter, [P, H] float32.

  Raises:
    UserError: if it is of another kind than prompt tuning, or damaged.
  """
  directory = pathlib.Path(directory)
  try:
    config = json.loads((directory / CONFIG).read_text())
    kind = config.get('peft_type')
    if kind != 'PROMPT_TUNING':
      raise errors.UserError(
        f'the adapter {str(directory)!r} has peft_type {kind!r}; expected PROMPT_TUNING'
      )
    arrays = safetensors.numpy.load_file(directory / WEIGHTS)
  except (OSError, ValueError, AttributeError, safetensors.SafetensorError) as e:
    if isinstance(e, errors.UserError):
      raise
    raise errors.UserError(
      f'the adapter {str(directory)!r} cannot be read ({e}); expected a directory with '
      f'{CONFIG} and {WEIGHTS}, as PEFT saves it'
    ) from e
  if list(arrays) != [_KEY] or arrays[_KEY].ndim != 2:
    found = ', '.join(f'{name} {array.shape}' for name, array in arrays.items())
    raise errors.UserError(
      f'the adapter {str(directory)!r} holds {found or "nothing"}; expected {_KEY} of '
      'virtual tokens by width'
    )
  return arrays[_KEY].astype(np.float32)
