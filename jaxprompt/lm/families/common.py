"""What Llama's config.json and those of later families say in the same keys."""

from jaxprompt import errors
from jaxprompt.lm import keys
from jaxprompt.lm import modules
from jaxprompt.lm import rotary as rotary_lib
from jaxprompt.lm import spec as spec_lib

# The defaults are those of transformers' `LlamaConfig`.
HONOURED = {
  'vocab_size': keys.count(32000),
  'hidden_size': keys.count(4096),
  'intermediate_size': keys.count(11008),
  'num_hidden_layers': keys.count(32),
  'num_attention_heads': keys.count(32),
  'num_key_value_heads': keys.optional(keys.count(None)),  # null = as many as heads
  'head_dim': keys.optional(keys.even(None)),  # null = hidden_size by heads
  'hidden_act': keys.one_of(modules.ACTIVATIONS, 'silu'),
  'max_position_embeddings': keys.count(2048),
  'rms_norm_eps': keys.number(1e-6),
  'rope_theta': keys.number(10000.0),
  'rope_scaling': keys.OBJECT,
  'rope_parameters': keys.OBJECT,
  'tie_word_embeddings': keys.switch(False),
}
WINDOWS = {
  'sliding_window': keys.optional(keys.count(4096)),
  'layer_types': keys.list_of(('sliding_attention', 'full_attention')),
}
FIXED = {
  'is_encoder_decoder': [False],
  'add_cross_attention': [False],
  'pruned_heads': [{}],
}
# What transformers 4 writes beside, of what is in `rope_parameters`.
_ROPE_KEYS = {
  'rope_theta': 'rope_theta',
  'rotary_emb_base': 'rope_theta',
  'partial_rotary_factor': 'partial_rotary_factor',
  'rotary_pct': 'partial_rotary_factor',
}
_LOCAL_BASE = 'rope_local_base_freq'
# By `rope_type`: what its object has to say, and what it makes of the frequencies.
_SCALINGS = {
  'default': ((), lambda frequencies: frequencies),
  'linear': (('factor',), lambda frequencies, factor: frequencies / factor),
  'llama3': (
    (
      'factor',
      'low_freq_factor',
      'high_freq_factor',
      'original_max_position_embeddings',
    ),
    rotary_lib.llama3,
  ),
}


def spec(path, config, rotary, **own):
  """Returns the `Spec` of what `HONOURED` reads.

  Args:
    path: what the user calls the checkpoint.
    config: what `keys.read` returned.
    rotary: the frequencies of each block, such as `rotary` gives.
    **own: what the family says otherwise, or besides.
  """
  heads, blocks = config['num_attention_heads'], config['num_hidden_layers']
  kv_heads = config['num_key_value_heads'] or heads
  if heads % kv_heads:
    raise errors.UserError(
      f'model.path {path!r} has {heads} heads, no multiple of its {kv_heads} key-value '
      'heads; correct its config.json'
    )
  usual = {
    'vocab_size': config['vocab_size'],
    'width': config['hidden_size'],
    'blocks': blocks,
    'heads': heads,
    'kv_heads': kv_heads,
    'head_dim': config['head_dim'] or head_dim(path, config['hidden_size'], heads),
    'mlp_width': config['intermediate_size'],
    'max_positions': config['max_position_embeddings'],
    'norm': 'rms',
    'epsilon': config['rms_norm_eps'],
    'activation': config['hidden_act'],
    'rotary': rotary,
    'windows': (None,) * blocks,
    'bias': spec_lib.Biases(),
    'tied': config['tie_word_embeddings'],
  }
  return spec_lib.Spec(**{**usual, **own})


def head_dim(path, width, heads):
  """Returns the width of a head where heads share the model's."""
  if width % heads:
    raise errors.UserError(
      f'model.path {path!r} has the width {width}, no multiple of its {heads} heads; '
      'correct its config.json'
    )
  return width // heads


def rotary(path, config, partial=None):
  """Returns the frequencies of every block, wherever a config says them.

  Args:
    path: what the user calls the checkpoint.
    config: what `keys.read` returned. transformers 5 writes `rope_theta` and the rest
      into `rope_parameters`, transformers 4 the rest into `rope_scaling`.
    partial: which share of a head is turned, unless `rope_parameters` says; None = all.
  """
  rope = config['rope_parameters'] or config['rope_scaling'] or {}
  width, heads = config['hidden_size'], config['num_attention_heads']
  size = config['head_dim'] or head_dim(path, width, heads)
  turned = frequencies(path, rope, config['rope_theta'], size, partial)
  return (turned,) * config['num_hidden_layers']


def check_rope(path, config):
  """Refuses a config.json that says twice, and differently, how blocks rotate.

  transformers 4 writes its own keys beside the `rope_parameters` that it has read, and
  goes by its own.

  Args:
    path: what the user calls the checkpoint.
    config: the content of config.json.
  """
  parameters = mapping(config.get('rope_parameters'))
  whole = mapping(parameters.get('full_attention', parameters))
  local = mapping(parameters.get('sliding_attention'))
  pairs = [(key, config.get(key), whole.get(name)) for key, name in _ROPE_KEYS.items()]
  pairs.append((_LOCAL_BASE, config.get(_LOCAL_BASE), local.get('rope_theta')))
  pairs = [pair for pair in pairs if None not in pair]
  if whole:
    scaling = mapping(config.get('rope_scaling'))
    pairs += [(key, value, whole.get(key)) for key, value in scaling.items()]
  if differing := [key for key, own, other in pairs if own != other]:
    raise errors.UserError(
      f'model.path {path!r} has rope_parameters in its config.json, which differ from '
      f'other keys there in {", ".join(differing):.80}; remove what is wrong'
    )


def mapping(value):
  """Returns a value that is a dict; {} for any other, which the family refuses."""
  return value if isinstance(value, dict) else {}


def frequencies(path, rope, base, size, partial=None):
  """Returns the frequencies by an object of a config.json.

  Args:
    path, partial: see `rotary`.
    rope: the object.
    base: `rope_theta`, unless the object says it.
    size: of a head.
  """
  kind = rope.get('rope_type', rope.get('type', 'default'))
  known = kind in list(_SCALINGS)
  names, scale = _SCALINGS[kind if known else 'default']
  honoured = {'rope_theta': keys.number(base)}
  honoured |= dict.fromkeys(names, keys.number(keys.REQUIRED))
  fixed = {'factor': [1.0], 'partial_rotary_factor': [1.0]}
  fixed |= dict.fromkeys(('rope_type', 'type'), [kind] if known else [])
  if partial is not None:
    honoured['partial_rotary_factor'] = keys.number(partial)
  found = keys.read(path, rope, honoured, fixed)
  turned = int(size * found.get('partial_rotary_factor', 1.0))
  if not 2 <= turned <= size or turned % 2:
    raise errors.UserError(
      f'model.path {path!r} has a rotary embedding of {turned} places of a head; '
      f'expected an even number up to {size}; correct its config.json'
    )
  plain = rotary_lib.frequencies(found['rope_theta'], turned)
  return tuple(scale(plain, **{name: found[name] for name in names}).tolist())


def slides(path, config, usual):
  """Returns which blocks have a sliding window, a tuple of bool.

  Args:
    path: what the user calls the checkpoint.
    config: what `keys.read` returned, with the keys of `WINDOWS`.
    usual: a function from a block's index to bool, unless `layer_types` says.
  """
  blocks, types = config['num_hidden_layers'], config['layer_types']
  if types is None:
    return tuple(map(usual, range(blocks)))
  check_blocks(path, config, 'layer_types')
  return tuple(each == 'sliding_attention' for each in types)


def check_blocks(path, config, name):
  """Refuses a list that should have an element for each block, and has not."""
  if len(config[name]) != config['num_hidden_layers']:
    raise errors.UserError(
      f'model.path {path!r} has {name} of {len(config[name])} blocks, but '
      f'num_hidden_layers {config["num_hidden_layers"]} in config.json; correct the '
      'one that is wrong'
    )
