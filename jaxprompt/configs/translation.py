"""English to German: WMT16 by default."""

from jaxprompt import config as config_lib

SIZES = {
  'data.train_size': 4800,
  'data.validation_size': 600,
  'data.test_size': 600,
}

PRESETS = {
  '': SIZES,
  'tiny': config_lib.TINY
  | {
    'data.max_source_tokens': 32,
    'data.max_target_tokens': 48,
    'eval.max_new_tokens': 48,
    'train.epochs': 3,
  },
  'original': SIZES | config_lib.ORIGINAL,
}


def get_config(preset=''):
  config = config_lib.default('translation')
  config.data.path = 'wmt/wmt16'
  config.data.subset = 'de-en'
  config.data.max_source_tokens = 128
  config.data.max_target_tokens = 128
  config.eval.max_new_tokens = 128
  return config_lib.with_preset(config, PRESETS, preset)
