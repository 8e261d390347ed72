"""The table of fields: what each one is, its default, and what values it may have."""

import dataclasses
import json

from jaxprompt import errors
from jaxprompt.prompts import arms

# Numbers that float32 multiplies and divides by without an overflow or a 0.
SMALLEST, LARGEST = 1e-30, 1e30
INT32 = 2**31 - 1  # steps and tokens are counted to it
UINT32 = 2**32 - 1  # the largest seed
_BELOW_1 = 0.999999  # beta of a moving average in float32
_BATCH_ROWS, STEP_ROWS = 2**16, 2**20  # of a micro-batch, of an optimiser step


@dataclasses.dataclass(frozen=True)
class Field:
  """A setting: of the config, or a flag of the command.

  Attributes:
    name: 'section.field'.
    default: of the field's type: str, int, float, or a tuple of texts.
    help: its meaning, for the documentation.
    choices: the texts that it, or each of a tuple, may be; () = any.
    blank: whether a text may be blank, or a tuple without texts.
    low, high: of a number, both inclusive.
    also: numbers outside of them that it may be.
    by_config: whether each config file has a default of its own.
  """

  name: str
  default: str | int | float | tuple[str, ...]
  help: str
  choices: tuple[str, ...] = ()
  blank: bool = False
  low: float = 0
  high: float = INT32
  also: tuple[float, ...] = ()
  by_config: bool = False

  @property
  def expected(self):
    """What a value must be, for an error."""
    if isinstance(self.default, tuple):
      kind = 'of ' + ', '.join(self.choices) if self.choices else 'that are not blank'
      number = 'texts' if self.blank else 'one or more texts'
      return f'{number} {kind}, all different, separated by commas or a JSON list'
    if self.choices:
      return f'one of {", ".join(self.choices)}'
    if isinstance(self.default, str):
      return 'a text in UTF-8' + ('' if self.blank else ' that is not blank')
    kind = 'a whole number' if isinstance(self.default, int) else 'a number'
    also = ''.join(f', or {number}' for number in self.also)
    return f'{kind} from {self.low} to {self.high}{also}'

  def check(self, value, name=None):
    """Returns the value, a list as a tuple.

    Args:
      value: of any type.
      name: what to call the field in an error, if not by its own name.

    Raises:
      UserError: if the field cannot have the value.
    """
    if not self._accepts(value):
      raise errors.UserError(
        f'{name or self.name} is {value!r:.80}; expected {self.expected}'
      )
    return tuple(value) if isinstance(value, list) else value

  def _accepts(self, value):
    if isinstance(self.default, tuple):
      if not isinstance(value, list | tuple) or not (value or self.blank):
        return False
      texts = [each for each in value if type(each) is str]
      return len(set(texts)) == len(value) and all(map(self._accepts_text, texts))
    kinds = (int, float) if isinstance(self.default, float) else (type(self.default),)
    if type(value) not in kinds:  # a bool, which is an int, is no number
      return False
    if isinstance(value, str):
      return self._accepts_text(value)
    return self.low <= value <= self.high or value in self.also  # NaN is in no range

  def _accepts_text(self, text):
    if self.choices:
      return text in self.choices
    blank = self.blank and isinstance(self.default, str)
    return (blank or bool(text.strip())) and _can_be_stored(text)

  def parse(self, text, name=None):
    """Returns the value that a text on the command line stands for; see `check`."""
    read = texts if isinstance(self.default, tuple) else type(self.default)
    try:
      value = read(text)
    except ValueError:
      value = text
    return self.check(value, name)


def texts(text):
  """Returns the texts of a JSON list, or of one text with commas between them."""
  if text.lstrip().startswith('['):
    return json.loads(text)
  return [part.strip() for part in text.split(',')] if text else []


def _can_be_stored(text):
  """Returns whether a file can hold the text, and a path consist of it."""
  try:
    return b'\0' not in text.encode()
  except UnicodeEncodeError:  # a byte of the command line that is not UTF-8
    return False


_FLOATS = ('float32', 'bfloat16')
_ALL = (
  Field('task', '', "a name; of summarization, qa and translation the rest is known",
        by_config=True),
  Field('seed', 0,
        "of the prompt's initialisation, the order of the data, the bootstrap",
        high=UINT32),
  Field('hard_prompt', '',
        "text of the hard arm; '' = one that names the labels, or asks for an answer",
        blank=True, by_config=True),
  Field('arms', ('none', 'hard', 'soft'),
        f'what is compared on the test rows, in order, of {", ".join(arms.ARMS)}; soft '
        'always',
        tuple(arms.ARMS)),
  Field('hard_prompts', (),
        'of the arm best_hard: texts, or templates that hold {source}; the best on the '
        'validation rows is tested',
        blank=True, by_config=True),
  Field('few_shot.examples', 4, 'training rows that the arm few_shot shows', low=1,
        high=2**10),
  Field('few_shot.draws', 3, 'draws of them, whose figures are averaged', low=1,
        high=2**10),
  Field('example.source', '',
        "what the model is to work on: a template over a row's columns", blank=True,
        by_config=True),
  Field('example.target', '', 'what it is to answer: such a template', blank=True,
        by_config=True),
  Field('example.cut', '',
        'the column of the source that gives way when it is too long; its first',
        blank=True, by_config=True),
  Field('example.references', '',
        "the place of all gold targets; '' = the target alone", blank=True,
        by_config=True),
  Field('example.empty_target', '',
        "the target of a row that has none; '' = such a row is bad", blank=True),
  Field('example.labels', (),
        "texts of a classification's labels, which rows name or, unless they are "
        'numbers themselves, number from 0; they are ranked by likelihood',
        blank=True),
  Field('metrics', (), 'names, the main one first', by_config=True),
  Field('model.path', 'gpt2', 'hub id, local checkpoint directory, or tiny'),
  Field('model.dtype', 'float32', 'of frozen weights and compute: float32 or bfloat16',
        _FLOATS),
  Field('model.precision', 'highest',
        "of a float32 model's matrix products: highest = float32, default = what the "
        'device likes (bfloat16 on TPUs, TF32 on GPUs)',
        ('highest', 'default')),
  Field('data.path', '',
        'hub id, directory of train, validation and test files, one file, or tiny',
        by_config=True),
  Field('data.subset', '', "the hub data set's configuration", blank=True,
        by_config=True),
  Field('data.bad_rows', 'error',
        'a row that cannot be used: error, or skip and count it; the sizes count it '
        'too',
        ('error', 'skip')),
  Field('data.train_size', 0, 'rows; 0 = all', by_config=True),
  Field('data.validation_size', 0, 'rows; 0 = all', by_config=True),
  Field('data.test_size', 0, 'rows; 0 = all', by_config=True),
  Field('data.sample', 'random',
        "the rows of a size smaller than the split: random, or head, the split's first",
        ('random', 'head')),
  Field('data.seed', 0,
        'of the random sample and of the splits of one file; not `seed`, so that runs '
        'of several seeds have the same rows',
        high=UINT32),
  Field('data.max_source_tokens', 512,
        'tokens; longer sources are cut (a question never)', low=1, by_config=True),
  Field('data.max_target_tokens', 128,
        'tokens; longer targets are cut (labels never)', low=1, by_config=True),
  Field('prompt.name', '', 'for people; not tokenised', by_config=True),
  Field('prompt.kind', 'embedding',
        'embedding = virtual tokens, deep = their keys and values in every block, '
        'residual = virtual tokens and a network of them',
        ('embedding', 'deep', 'residual')),
  Field('prompt.length', 20, 'P, virtual tokens', low=1),
  Field('prompt.init', 'text',
        'text, examples (training rows), vocab, random, or the directory of a trained '
        'prompt; of several, the mean'),
  Field('prompt.text', '', "text of init=text; '' = the hard prompt's", blank=True),
  Field('prompt.position', 'prefix', 'prefix = before the source, suffix = after it',
        ('prefix', 'suffix')),
  Field('train.batch_size', 8, 'rows a micro-batch, over all devices', low=1,
        high=_BATCH_ROWS),
  Field('train.epochs', 10, 'passes over the training rows', low=1),
  Field('train.steps', 0, 'optimiser steps, instead of train.epochs; 0 = by epochs'),
  Field('train.patience', 0,
        'validations without a better loss before training stops; 0 = never'),
  Field('train.accumulate', 1, 'micro-batches an optimiser step', low=1,
        high=STEP_ROWS),
  Field('train.clip_norm', 1.0,
        "largest norm of the prompt's gradient; 0 = no clipping",
        low=SMALLEST, high=LARGEST, also=(0,)),
  Field('train.optimizer', 'adamw',
        'adamw, adafactor, prodigy, or package.module:function'),
  Field('train.learning_rate', -1.0,
        "after the warm-up; -1 = the optimiser's own for such a prompt",
        low=SMALLEST, high=LARGEST, also=(0, -1)),
  Field('train.weight_decay', 0.0, 'how much a step draws the prompt to zero',
        high=LARGEST),
  Field('train.beta1', 0.9, 'AdamW and Prodigy: decay of the mean of gradients',
        high=_BELOW_1),
  Field('train.beta2', 0.999, 'AdamW and Prodigy: decay of the mean of their squares',
        high=_BELOW_1),
  Field('train.schedule', 'cosine', 'after the warm-up: cosine, linear or constant',
        ('cosine', 'linear', 'constant')),
  Field('train.warmup', 10, 'optimiser steps', high=2**24),  # float32 counts to it
  Field('train.context_cache_gb', -1.0,
        'host memory for sources; -1 = a third of the free', high=LARGEST, also=(-1,)),
  Field('train.context_dtype', 'float32', "of a suffix's sources: float32 or bfloat16",
        _FLOATS),
  Field('eval.batch_size', 16, 'rows', low=1, high=_BATCH_ROWS),
  Field('eval.every_steps', 0,
        "optimiser steps between validations, besides every epoch's end; 0 = none"),
  Field('eval.validation_text', 'off',
        'on = also generates and scores the text of validation rows while training',
        ('off', 'on')),
  Field('eval.max_new_tokens', 128, 'tokens generated at most', low=1, by_config=True),
  Field('eval.beams', 1, '1 = greedy', low=1, high=2**10),
  Field('eval.calibration', 'none',
        "of labels: none, or content_free = each less what it has without a source",
        ('none', 'content_free')),
  Field('checkpoint.every_steps', 100,
        "optimiser steps, besides every epoch's end; 0 = none"),
  Field('checkpoint.keep', 3, 'newest checkpoints kept', low=1),
  Field('log.wandb', '',
        "a project of Weights & Biases that gets a run's scalars too; '' = none",
        blank=True),
  Field('parallel.mode', 'jit', 'how devices are used: jit (over a mesh) or pmap',
        ('jit', 'pmap')),
  Field('parallel.data', -1, 'devices that share a batch; -1 = all that are left',
        low=1, also=(-1,)),
  Field('parallel.model', 1, 'devices that share the weights; -1 = all that are left',
        low=1, also=(-1,)),
  Field('sweep.length', '',
        'of a sweep: values of `prompt.length`, separated by commas or a JSON list',
        blank=True),
  Field('sweep.seed', '', 'of a sweep: values of `seed`', blank=True),
  Field('sweep.init', '', 'of a sweep: values of `prompt.init`', blank=True),
  Field('sweep.learning_rate', '', 'of a sweep: values of `train.learning_rate`',
        blank=True),
  Field('sweep.test', 'best', 'the runs of a sweep to compare on the test rows: best, '
        'or all', ('best', 'all')),
)  # fmt: skip
FIELDS = {field.name: field for field in _ALL}
SECTIONS = tuple(
  dict.fromkeys(name.partition('.')[0] for name in FIELDS if '.' in name)
)

# Of drawing text; no part of a run's config.
SAMPLING = (
  Field('temperature', 0.0, 'draws tokens, of logits divided by it; 0 = the likeliest',
        low=SMALLEST, high=LARGEST, also=(0,)),
  Field('top_k', 0, 'draws of so many; 0 = all'),
  Field('top_p', 1.0,
        'draws of the likeliest tokens that have this probability together',
        low=SMALLEST, high=1),
  Field('seed', 0, 'of what is drawn', high=UINT32),
)  # fmt: skip


def table():
  """Returns the fields as a table in Markdown."""
  lines = ['| field | default | meaning |', '|---|---|---|']
  for name, field in FIELDS.items():
    text = (
      ','.join(field.default) if isinstance(field.default, tuple) else field.default
    )
    default = f'`{text}`' if text != '' else "`''`"
    if field.by_config:
      default = "the config file's" + (f', or {default}' if text != '' else '')
    lines.append(f'| `{name}` | {default} | {field.help} |')
  return '\n'.join(lines)
