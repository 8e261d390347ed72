"""Summarization: CNN/DailyMail by default."""

from jaxprompt import config as config_lib

SIZES = {
  'data.train_size': 1000,
  'data.validation_size': 130,
  'data.test_size': 110,
}

PRESETS = {
  '': SIZES,
  'tiny': config_lib.TINY
  | {
    'data.max_source_tokens': 64,
    'data.max_target_tokens': 24,
    'eval.max_new_tokens': 24,
    'train.epochs': 4,
  },
  'original': SIZES | config_lib.ORIGINAL,
}


def get_config(preset=''):
  config = config_lib.default('summarization')
  config.data.path = 'abisee/cnn_dailymail'
  config.data.subset = '3.0.0'
  config.data.max_source_tokens = 768
  config.data.max_target_tokens = 128
  config.eval.max_new_tokens = 128
  return config_lib.with_preset(config, PRESETS, preset)
