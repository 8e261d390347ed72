"""What a config.json may say: each of its keys is honoured, needless, or refused.

A family lists the keys that it honours, with the values that it can. What the tables
do not know may change what the model computes, and is refused.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import transformers

from jaxprompt import errors


class Check(NamedTuple):
  """A condition on a value, and what it is in words."""

  good: Callable[[Any], bool]
  expected: str


def only(value):
  """Is the check for a setting that is honoured with one value, or left out."""
  return Check(
    lambda x: x == value or (x is None and not value), f'only {json.dumps(value)}'
  )


def one_of(values):
  return Check(
    lambda x: isinstance(x, str) and x in values, f'one of {", ".join(values)}'
  )


def or_null(check):
  return Check(lambda x: x is None or check.good(x), f'{check.expected}, or null')


COUNT = Check(lambda x: type(x) is int and 0 < x < 2**31, 'a whole number from 1 on')
POSITIVE = Check(
  lambda x: type(x) in (int, float) and 0 < x < math.inf, 'a number above 0'
)
BOOL = Check(lambda x: isinstance(x, bool), 'true or false')
TABLE = Check(lambda x: isinstance(x, dict), 'an object')


def _are_ids(x):
  return all(type(i) is int and i >= 0 for i in (x if isinstance(x, list) else [x]))


_COMMON = {
  'model_type': Check(lambda x: isinstance(x, str), 'a name'),
  'eos_token_id': or_null(Check(_are_ids, 'a token id, or a list of them')),
  'tokenizer_class': or_null(Check(lambda x: isinstance(x, str), 'a name')),
  'quantization_config': only(None)._replace(expected='a model that is not quantized'),
  'add_cross_attention': only(False),
  'is_encoder_decoder': only(False),
  'cross_attention_hidden_size': only(None),
  'pruned_heads': only({}),
}

# Names of classes and files, dropout, initial weights, heads for other tasks, memory,
# decoding (the run's own config decides), and notes of authors and tools.
_NEEDLESS = re.compile(
  r'_.*|.*dropout.*|.*_pdrop|summary_.*|unsloth_.*|trl_.*|.*flash_attn.*|'
  r'.*flash_attention.*|attn_implementation|auto_map|torch_dtype|initializer_range|'
  r'gradient_checkpointing|model_parallel|num_labels|output_past|n_ctx|n_special|'
  r'predict_special_tokens|max_sequence_length|model_max_length|pretraining_tp|'
  r'reorder_and_upcast_attn|is_llama_config|xla_device|neftune_noise_alpha|'
  r'keys_to_ignore_at_inference|transformers\.js_config|author|created_date|license|'
  r'description|language|name|version'
)


def check(path, config, honoured):
  """Checks a config.json, key by key.

  Args:
    path: of the model, for the error.
    config: its content, a dict.
    honoured: {key: `Check`} of the family.

  Returns:
    The part of it that is the family's.

  Raises:
    UserError: names the key, and what would be honoured.
  """
  needless = {
    *transformers.PretrainedConfig().to_dict(),
    *transformers.GenerationConfig().to_dict(),
  }
  for key, value in config.items():
    known = honoured.get(key) or _COMMON.get(key)
    if known and not known.good(value):
      raise errors.UserError(
        f'model.path {path!r}: config.json has {key} {json.dumps(value):.80}; '
        f'expected {known.expected}: nothing else is honoured here'
      )
    if known or value is None or key in needless or _NEEDLESS.fullmatch(key):
      continue
    raise errors.UserError(
      f'model.path {path!r}: config.json has {key} {json.dumps(value):.80}, a key that '
      'is not known here and may change what the model computes; use a checkpoint '
      'without, or remove it there if it does not'
    )
  return {key: config[key] for key in honoured if key in config}
