"""The keyword arguments of the Python API, as the fields of a config that they set.

A field says what an argument may be and what it is by default: docs/configuration.md.
`named` rewrites errors, so that they name the argument and not the field or the flag.
"""

import contextlib
import re
import typing
from typing import Annotated

import numpy as np

from jaxprompt import errors
from jaxprompt import fields

_FIELDS = fields.FIELDS | {field.name: field for field in fields.SAMPLING}


class Reading(typing.TypedDict, total=False):
  """How rows are read and cut."""

  subset: Annotated[str, 'data.subset']
  bad_rows: Annotated[str, 'data.bad_rows']
  train_size: Annotated[int, 'data.train_size']
  validation_size: Annotated[int, 'data.validation_size']
  test_size: Annotated[int, 'data.test_size']
  sample: Annotated[str, 'data.sample']
  seed: Annotated[int, 'data.seed']
  max_source_tokens: Annotated[int, 'data.max_source_tokens']
  max_target_tokens: Annotated[int, 'data.max_target_tokens']


class Training(typing.TypedDict, total=False):
  """How a prompt is trained."""

  steps: Annotated[int, 'train.steps']
  epochs: Annotated[int, 'train.epochs']
  batch_size: Annotated[int, 'train.batch_size']
  accumulate: Annotated[int, 'train.accumulate']
  optimizer: Annotated[str, 'train.optimizer']
  learning_rate: Annotated[float, 'train.learning_rate']
  weight_decay: Annotated[float, 'train.weight_decay']
  beta1: Annotated[float, 'train.beta1']
  beta2: Annotated[float, 'train.beta2']
  schedule: Annotated[str, 'train.schedule']
  warmup: Annotated[int, 'train.warmup']
  clip_norm: Annotated[float, 'train.clip_norm']
  patience: Annotated[int, 'train.patience']
  validate_every: Annotated[int, 'eval.every_steps']
  validation_batch_size: Annotated[int, 'eval.batch_size']
  save_every: Annotated[int, 'checkpoint.every_steps']
  wandb: Annotated[str, 'log.wandb']
  seed: Annotated[int, 'seed']


class Measuring(typing.TypedDict, total=False):
  """How prompts are measured on rows."""

  batch_size: Annotated[int, 'eval.batch_size']
  max_new_tokens: Annotated[int, 'eval.max_new_tokens']
  beams: Annotated[int, 'eval.beams']
  calibration: Annotated[str, 'eval.calibration']
  seed: Annotated[int, 'seed']


class Answering(Measuring, total=False):
  """How answers are chosen or drawn; seed is that of what is drawn."""

  temperature: Annotated[float, 'temperature']
  top_k: Annotated[int, 'top_k']
  top_p: Annotated[float, 'top_p']


class Lengths(typing.TypedDict, total=False):
  """What an adapter does not say of its prompt's use."""

  max_source_tokens: Annotated[int, 'data.max_source_tokens']
  max_new_tokens: Annotated[int, 'eval.max_new_tokens']


KINDS = (Reading, Training, Measuring, Answering, Lengths)


def field_of(kind):
  """Returns {argument: its field} of one of `KINDS`."""
  hints = typing.get_type_hints(kind, include_extras=True)
  return {name: hint.__metadata__[0] for name, hint in hints.items()}


def check(kind, given):
  """Returns {field: value} of keyword arguments.

  Args:
    kind: one of `KINDS`.
    given: {argument: value}.

  Raises:
    UserError: names the argument that there is not, or that cannot have its value.
  """
  known = field_of(kind)
  if unknown := given.keys() - known.keys():
    raise errors.UserError(
      f'{min(unknown)!r} is no argument here; expected one of {", ".join(known)}'
    )
  return {
    known[name]: _FIELDS[known[name]].check(_number(value), name)
    for name, value in given.items()
  }


def check_is(kind, expected, **given):
  """Raises `UserError` for arguments that are not of a class.

  Args:
    kind: the class.
    expected: what it is called.
    **given: {argument: value}.
  """
  for name, value in given.items():
    if not isinstance(value, kind):
      raise errors.UserError(f'{name} is {value!r:.60}; expected {expected}')


def _number(value):
  """Returns a number of NumPy's as one of Python's, and all else as it is."""
  return value.item() if isinstance(value, np.generic) else value


# What a field or a flag is called where it is not its own last name.
_CALLED = {field: name for kind in KINDS for name, field in field_of(kind).items()} | {
  'data.path': 'the data',
  'model.path': 'the model',
  '--mode=predict and --mode=serve': 'generate',
  '--workdir': 'workdir',
  '--prompt': 'directory',
  '--output': 'directory',
  '--format': 'format',
  '--overwrite': 'overwrite=True',
  '--temperature': 'temperature',
  '--top_k': 'top_k',
  '--top_p': 'top_p',
}
_WORDS = re.compile(
  '|'.join(
    rf'(?<![\w./-]){re.escape(name)}(?![\w-])'
    for name in sorted({*fields.FIELDS, *_CALLED}, key=len, reverse=True)
    if not name.isidentifier()
  )
)


def _argument(match):
  name = match.group()
  return _CALLED.get(name, name.rpartition('.')[2])


@contextlib.contextmanager
def named():
  """Says of an argument what an error says of a field or a flag."""
  try:
    yield
  except errors.UserError as e:
    raise errors.UserError(_WORDS.sub(_argument, str(e))) from e
