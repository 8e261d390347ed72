"""Which keys of a config.json a family honours, and which cannot matter to it."""

import re

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
)


# What a key that a family reads may be, and how to say so.
COUNT = (lambda x: type(x) is int and x > 0, 'a whole number above 0')
EVEN = (lambda x: type(x) is int and x > 0 and x % 2 == 0, 'an even number above 0')
NUMBER = (lambda x: type(x) in (int, float) and 0 < x < 1e30, 'a number above 0')
SWITCH = (lambda x: type(x) is bool, 'true or false')
OBJECT = (lambda x: isinstance(x, dict), 'an object')


def optional(kind):
  """Returns the kind of a key that may be null, too."""
  good, expected = kind
  return lambda x: x is None or good(x), f'{expected}, or null'


def check(path, config, honoured, fixed):
  """Refuses a config.json that asks for what is not honoured.

  Args:
    path: what the user calls the checkpoint.
    config: the content of config.json, or of an object in it.
    honoured: {key that the family reads: what it may be}.
    fixed: {key: the values that mean what the family does anyway}.

  Raises:
    UserError: names the keys and their values.
  """
  for key in honoured.keys() & config.keys():
    good, expected = honoured[key]
    if not good(config[key]):
      raise errors.UserError(
        f'model.path {path!r} has {key} {config[key]!r:.80} in config.json; expected '
        f'{expected}'
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
