"""Loads a checkpoint: its family's functions, its weights, and the tokenizer it had."""

import hashlib
import os
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import tokenizers
import transformers

from jaxprompt import embedded
from jaxprompt import errors
from jaxprompt import hub
from jaxprompt.lm import files
from jaxprompt.lm import model as model_lib
from jaxprompt.lm import weights as weights_lib
from jaxprompt.lm.families import common
from jaxprompt.lm.families import gemma
from jaxprompt.lm.families import gemma2
from jaxprompt.lm.families import gemma3
from jaxprompt.lm.families import gpt2
from jaxprompt.lm.families import gpt_neox
from jaxprompt.lm.families import llama
from jaxprompt.lm.families import mistral
from jaxprompt.lm.families import phi3
from jaxprompt.lm.families import qwen2
from jaxprompt.lm.families import qwen3
from jaxprompt.lm.families import smollm3

# By `model_type` of config.json.
FAMILIES = {
  'gemma': gemma.read_config,
  'gemma2': gemma2.read_config,
  'gemma3_text': gemma3.read_config,
  'gpt2': gpt2.read_config,
  'gpt_neox': gpt_neox.read_config,
  'llama': llama.read_config,
  'mistral': mistral.read_config,
  'phi3': phi3.read_config,
  'qwen2': qwen2.read_config,
  'qwen3': qwen3.read_config,
  'smollm3': smollm3.read_config,
}
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


# What decides a model's numbers and cannot be seen from its weights.
_NOT_IN_SHAPES = (
  *('heads', 'kv_heads', 'norm', 'epsilon', 'activation', 'rotary', 'windows', 'tied'),
  *('by_head', 'parallel', 'embedding_scale', 'query_divisor'),
  *('score_cap', 'logit_cap'),
)
# What a fast tokenizer can be made of.
_SLOW = ('vocab.json', 'tokenizer.model', 'spiece.model')


class Model(NamedTuple):
  """A frozen model: its functions, its weights, its tokenizer, and what they are."""

  lm: model_lib.LanguageModel
  params: dict  # the weights
  tokenizer: transformers.PreTrainedTokenizerFast
  fingerprint: dict[str, str]  # of the 'weights' and the 'tokenizer', wherever they are


def load(path, dtype, placements=None):
  """Loads a frozen model; nothing in its checkpoint is ever run.

  Args:
    path: a hub id, a local directory, or `tiny`, the embedded one.
    dtype: a key of `DTYPES`.
    placements: from a `LanguageModel` and its weights' shapes to a tree of functions
      that put each where it is to be; None = all stay on the host. No two weights are
      read at a time.

  Returns:
    `Model`, its weights in `dtype`.

  Raises:
    UserError: as `describe`; if it has no weights but pickled or quantized ones.
  """
  path, lm, tokenizer = describe(path, dtype)
  shapes, names = model_lib.shapes(lm), lm.spec.names
  place = (placements or _on_the_host)(lm, shapes)
  params, digest = weights_lib.read(path, shapes, names, DTYPES[dtype], place)
  fingerprint = {
    'weights': _digest(digest, *(getattr(lm.spec, name) for name in _NOT_IN_SHAPES)),
    'tokenizer': _digest(tokenizer.backend_tokenizer.to_str(), tokenizer.eos_token_id),
  }
  return Model(lm, params, tokenizer, fingerprint)


def describe(path, dtype):
  """Returns where a checkpoint is, its `LanguageModel` and its tokenizer.

  No weights are read; arguments as of `load`.

  Raises:
    UserError: if the checkpoint is missing, incomplete, of another architecture, asks
      for what is not honoured, or has a tokenizer that is not its own.
  """
  path, config, spec = read_spec(path)
  tokenizer = _read_tokenizer(path)
  ends = _ends(path, config)
  _check_tokenizer(path, tokenizer, spec.vocab_size, ends)
  tokens = 1 + max(tokenizer.get_vocab().values())
  lm = model_lib.LanguageModel(
    spec,
    DTYPES[dtype],
    tokens=min(tokens, spec.vocab_size),
    end_ids=(tokenizer.eos_token_id, *sorted(ends - {tokenizer.eos_token_id})),
  )
  return path, lm, tokenizer


def read_spec(path):
  """Returns where a checkpoint is, its config.json's content and its `spec.Spec`.

  Raises:
    UserError: as `describe`, but for the tokenizer.
  """
  path = embedded.model_path(path)
  folder = pathlib.Path(os.path.expanduser(path))
  if folder.is_dir() or folder.is_absolute() or path.startswith(('.', '~')):
    _check_directory(folder)
    path = str(folder)
  else:
    hub.require(path, 'model.path')
  config = files.read_json(path, 'config.json')
  if config is None:
    raise errors.UserError(
      f'model.path {path!r} has no config.json{hub.offline_remedy(path, "model.path")}'
    )
  kind = config.get('model_type')
  if kind not in FAMILIES:
    raise errors.UserError(
      f'model.path {path!r} has model_type {kind!r}; expected one of '
      f'{", ".join(FAMILIES)}'
    )
  common.check_rope(path, config)
  return path, config, FAMILIES[kind](path, config)


def _on_the_host(lm, shapes):
  del lm
  return jax.tree.map(lambda _: lambda array: array, shapes)


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


def _read_tokenizer(path):
  """Returns the checkpoint's own tokenizer.

  Raises:
    UserError: if it cannot be read, or only by code that comes with it.
  """
  config = files.read_json(path, 'tokenizer_config.json') or {}
  code = config.get('auto_map') or {}
  if isinstance(code, list) or 'AutoTokenizer' in code:
    raise errors.UserError(
      f'model.path {path!r} has a tokenizer that is code of its own (auto_map in '
      'tokenizer_config.json), which is never run; use a checkpoint with a '
      'tokenizer.json alone'
    )
  file = files.find(path, 'tokenizer.json')
  if file is None and not any(files.find(path, name) for name in _SLOW):
    raise errors.UserError(
      f'model.path {path!r} has no tokenizer.json; put the one of the model there, '
      'which transformers.AutoTokenizer saves'
    )
  own = None
  if file is not None:
    files.read_json(path, 'tokenizer.json')
    upgrade = (
      f'tokenizers {tokenizers.__version__} may be older than the file: upgrade it, or '
      'get the file again'
    )
    with errors.reading(file, upgrade):
      own = tokenizers.Tokenizer.from_file(str(file))
  reader, settings = transformers.AutoTokenizer, {}
  # What transformers 5 writes and 4.57 cannot read: a class that has another name
  # there, and a list of tokens, which tokenizer.json has too.
  if config.get('tokenizer_class') == 'TokenizersBackend':
    reader = transformers.PreTrainedTokenizerFast
  if isinstance(config.get('extra_special_tokens'), list):
    settings = {'extra_special_tokens': {}}
  with errors.reading(
    f'the tokenizer of model.path {path!r}',
    'put a tokenizer.json there, which transformers.AutoTokenizer saves',
  ):
    read = reader.from_pretrained(path, trust_remote_code=False, **settings)
  if own is not None and read.is_fast:
    _restore(read, own)
  return read


def _restore(tokenizer, own):
  """Gives a tokenizer the parts of its tokenizer.json.

  Classes put some of their own in place of them, and releases of transformers differ in
  which; by the file, a text's tokens and the fingerprint are the same in all of them.

  Args:
    tokenizer: what `AutoTokenizer` has made; is changed.
    own: `tokenizers.Tokenizer` of the file.
  """
  for part in ('model', 'normalizer', 'pre_tokenizer', 'post_processor', 'decoder'):
    setattr(tokenizer.backend_tokenizer, part, getattr(own, part))


def _ends(path, config):
  """Returns the ids of all ends of text that a checkpoint names."""
  generation = files.read_json(path, 'generation_config.json') or {}
  found = set()
  for stored in (config, generation):
    ids = stored.get('eos_token_id')
    ids = ids if isinstance(ids, list) else [ids]
    found |= {each for each in ids if type(each) is int}
  return found


def _check_tokenizer(path, tokenizer, vocab_size, ends):
  if not tokenizer.is_fast:
    raise errors.UserError(
      f'model.path {path!r} has no fast tokenizer; save one there with '
      'transformers.AutoTokenizer (tokenizer.json)'
    )
  end = tokenizer.eos_token_id
  if end is None:
    raise errors.UserError(
      f'model.path {path!r} has a tokenizer without an end of text; set eos_token in '
      'its tokenizer_config.json'
    )
  # Chat models list several ends of text; the one that ours is must be among them.
  if ends and end not in ends:
    raise errors.UserError(
      f'model.path {path!r} has the end of text {end} ({tokenizer.eos_token!r}) by '
      f'eos_token in tokenizer_config.json, {sorted(ends)} by eos_token_id in '
      'config.json and generation_config.json; correct the one that is wrong'
    )
  beyond = _beyond(tokenizer, vocab_size)
  if beyond:
    raise errors.UserError(
      f'model.path {path!r} has a tokenizer whose tokens {", ".join(beyond):.80} have '
      f"no row in the {vocab_size} embeddings of its model; put the model's own "
      'tokenizer there'
    )


def _beyond(tokenizer, vocab_size):
  """Returns the tokens beyond a table of embeddings that some text becomes.

  No text becomes a special token, but by the chat template or as what is put around a
  text: Gemma 3's for images, beyond its table, is never met.
  """
  added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
  met = {tokenizer.eos_token_id, *tokenizer('')['input_ids']}
  never = {
    id
    for id, token in added.items()
    if token.special
    and id not in met
    and token.content not in str(tokenizer.chat_template)
  }
  tokens = tokenizer.get_vocab().items()
  return sorted(token for token, id in tokens if id >= vocab_size and id not in never)


def _digest(*values):
  return hashlib.sha256(repr(values).encode()).hexdigest()
