"""Any task of one's own: rows to texts by `example`, or to `example.labels`."""

from jaxprompt import config as config_lib

PRESETS = {
  '': {},
  # Of the embedded world: the pronoun of whom a text tells of.
  'tiny': config_lib.TINY
  | {
    'example.labels': ('he', 'she'),
    'metrics': ('accuracy', 'macro_f1'),
    'data.max_source_tokens': 64,
    'data.max_target_tokens': 4,
    'eval.max_new_tokens': 4,
    'train.learning_rate': 0.03,
    'train.epochs': 4,
  },
}


def get_config(preset=''):
  config = config_lib.default('text')
  config.example.source, config.example.target = '{text}', '{label}'
  config.metrics = ('token_match',)
  return config_lib.with_preset(config, PRESETS, preset)
