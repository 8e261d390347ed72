"""Summarization: CNN/DailyMail by default."""

from jaxprompt import config as config_lib

SIZES = {
  'data.train_size': 1000,
  'data.validation_size': 130,
  'data.test_size': 110,
}

PRESETS = {
  '': SIZES,
  'original': {
    **SIZES,
    'prompt.length': 1,
    'train.batch_size': 1,
    'train.epochs': 10,
    'train.accumulate': 1,
    'train.clip_norm': 1.0,
  },
}


def get_config(preset=''):
  config = config_lib.default('summarization')
  config.data.path = 'cnn_dailymail'
  config.data.subset = '3.0.0'
  config.data.max_source_tokens = 768
  config.data.max_target_tokens = 128
  config.eval.max_new_tokens = 128
  return config_lib.with_preset(config, PRESETS, preset)
