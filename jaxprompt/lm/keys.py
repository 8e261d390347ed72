"""Which keys of a config.json a family honours, and which cannot matter to it."""

import re
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

from jaxprompt import errors

# Of training, of generation, of other tasks, of tools: not of the logits.
_NEEDLESS = re.compile(
  r'_.*|.*dropout.*|.*_pdrop|summary_.*|unsloth.*|transformers.*|output_.*|.*_token_ids?'
  r'|forced_.*|.*suppress_tokens|return_dict.*|num_return_sequences|(max|min)_length'
  r'|(id2label|label2id|num_labels|problem_type|finetuning_task|task_specific_params)'
  r'|(do_sample|early_stopping|num_beams|num_beam_groups|temperature|top_k|top_p)'
  r'|(typical_p|diversity_penalty|length_penalty|repetition_penalty|bad_words_ids)'
  r'|(encoder_)?no_repeat_ngram_size|remove_invalid_values|exponential_decay_.*'
  r'|(architectures|auto_map|model_type|torch_dtype|dtype|torchscript|use_cache)'
  r'|(initializer_range|init_std|gradient_checkpointing|use_bfloat16|prefix|name)'
  r'|(tokenizer_class|chunk_size_feed_forward|attn_implementation|model_max_length)'
  r'|(is_decoder|is_llama_config|cross_attention_hidden_size|max_sequence_length)'
  r'|(pretraining_tp|reorder_and_upcast_attn|tf_legacy_loss|use_flash_attention.*)'
  r'|(author|license|created_date|description|model_name|version)'
  r'|(cache_implementation|tie_encoder_decoder|custom_pipelines)'
)


class Key(NamedTuple):
  """A key that a family reads."""

  good: Callable  # whether a value can be
  expected: str  # what it should be, in words
  default: Any = None  # of a config without the key


REQUIRED = object()  # the default of a key that has none


def count(default):
  """Returns the key of a size."""
  return Key(lambda x: type(x) is int and x > 0, 'a whole number above 0', default)


def whole(default):
  """Returns the key of a number of blocks, which may be none."""
  return Key(lambda x: type(x) is int and x >= 0, 'a whole number', default)


def even(default):
  """Returns the key of a size that has two halves."""
  key = count(default)
  return Key(lambda x: key.good(x) and x % 2 == 0, 'an even number above 0', default)


def number(default):
  """Returns the key of a number."""
  return Key(
    lambda x: type(x) in (int, float) and 0 < x < 1e30, 'a number above 0', default
  )


def switch(default):
  """Returns the key of what is or is not."""
  return Key(lambda x: type(x) is bool, 'true or false', default)


def one_of(values, default):
  """Returns the key of one of several texts."""
  return Key(lambda x: x in list(values), f'one of {", ".join(values)}', default)


def list_of(values):
  """Returns the key of a list of some of `values`, or null."""

  def good(x):
    return isinstance(x, list) and all(each in values for each in x)

  return optional(Key(good, f'a list of {" and ".join(map(str, values))}'))


def optional(key):
  """Returns a key that may be null, too."""
  return key._replace(
    good=lambda x: x is None or key.good(x), expected=f'{key.expected}, or null'
  )


OBJECT = optional(Key(lambda x: isinstance(x, dict), 'an object'))


def with_defaults(honoured, **defaults):
  """Returns the keys with other defaults."""
  changed = {name: honoured[name]._replace(default=x) for name, x in defaults.items()}
  return {**honoured, **changed}


def read(path, config, honoured, fixed):
  """Returns what a config.json says of what a family reads.

  Args:
    path: what the user calls the checkpoint.
    config: the content of config.json, or of an object in it.
    honoured: {name: `Key`} of what the family reads.
    fixed: {name: the values that mean what the family does anyway}.

  Returns:
    {name: value} of what is honoured.

  Raises:
    UserError: names the keys that are not honoured, missing or wrong, and their values.
  """
  _check(path, config, honoured, fixed)
  found = {name: config.get(name, key.default) for name, key in honoured.items()}
  if missing := [name for name, value in found.items() if value is REQUIRED]:
    raise errors.UserError(
      f'model.path {path!r} lacks {" and ".join(missing)} in config.json; get the '
      'whole file'
    )
  return found


def _check(path, config, honoured, fixed):
  for key in honoured.keys() & config.keys():
    if not honoured[key].good(config[key]):
      raise errors.UserError(
        f'model.path {path!r} has {key} {config[key]!r:.80} in config.json; expected '
        f'{honoured[key].expected}'
      )
  refused = [
    f'{key} {value!r:.80}'
    for key, value in config.items()
    if key not in honoured and value is not None and not _is_needless(key, value, fixed)
  ]
  if refused:
    raise errors.UserError(
      f'model.path {path!r} has {" and ".join(refused)} in config.json, which is not '
      'honoured here; use a checkpoint without'
    )


def _is_needless(key, value, fixed):
  if key in fixed:
    return any(value is known or value == known for known in fixed[key])
  return _NEEDLESS.fullmatch(key) is not None
