"""The nouns of the Python API: model, task, data, prompts, and what a run has left.

`api` has what is done with them.
"""

import dataclasses
import os
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxprompt import arguments
from jaxprompt import errors
from jaxprompt import fields as fields_lib
from jaxprompt.data import loader
from jaxprompt.data import rows as rows_lib
from jaxprompt.prompts import batch as batch_lib
from jaxprompt.prompts import kinds
from jaxprompt.prompts import trained as trained_lib
from jaxprompt.runs import comparison
from jaxprompt.runs import exports
from jaxprompt.runs import results
from jaxprompt.runs import setup
from jaxprompt.runs import workdir as workdir_lib
from jaxprompt.tasks import tasks
from jaxprompt.training import terminal

Model = setup.Model
Params = dict[str, Any]  # of arrays, numpy's or JAX's; see `kinds`


@dataclasses.dataclass(frozen=True)
class Task(tasks.Task):
  __doc__ = tasks.Task.__doc__

  __post_init__ = arguments.named()(tasks.Task.__post_init__)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Rows(Sequence):
  """Rows of one split as a model's tokens; `rows[0]` has `source`, `target`, `id`."""

  table: rows_lib.Table
  task: tasks.Task
  model: Model
  fields: dict[str, Any]  # of the config, by which they were read

  def __len__(self) -> int:
    return len(self.table)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return dataclasses.replace(self, table=self.table[index])
    return self.table[index]

  def __repr__(self) -> str:
    return f'Rows({len(self)} of the task {self.task.name!r})'

  def batches(
    self,
    batch_size: int,
    *,
    position: str = 'prefix',
    seed: int | None = None,
    epoch: int = 1,
  ) -> Iterator[batch_lib.Batch]:
    """Yields all rows in batches on the devices, those of like length together.

    Args:
      batch_size: rows; those that a batch lacks are padding, which counts nothing.
      position: of the prompt: before a suffix, sources stand apart.
      seed, epoch: of the order; without a seed, by length.
    """
    with arguments.named():
      fields_lib.FIELDS['train.batch_size'].check(batch_size)
      fields_lib.FIELDS['prompt.position'].check(position)
      self.model.layout.check_divides(batch_size)
    batches = loader.Loader(
      self.table,
      self.model.layout,
      batch_size=batch_size,
      pad_id=self.model.template.end_id,
      apart=position == 'suffix',
    )
    plan = batches.in_order() if seed is None else batches.epoch(seed, epoch)
    for indices, shape in plan:
      yield batches.load(indices, shape)[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
  """The rows of a task, by split."""

  train: Rows
  validation: Rows
  test: Rows
  _splits: dict[str, rows_lib.Rows] = dataclasses.field(repr=False)

  def __post_init__(self):
    for name, own in self._splits.items():
      if getattr(self, name).table is not own.rows:
        raise errors.UserError(
          f'{name} is not as load_data has read it; give load_data the rows that you '
          f'want, or {name}_size'
        )


_DIMENSIONS = ({'embeddings': 2}, {'keys_values': 5})


@dataclasses.dataclass(frozen=True)
class Soft:
  """A prompt to train.

  Attributes:
    length: P, the number of virtual tokens; 20, or that of the prompt in `init`.
    init: what it begins at: a text, cut or repeated to the length; 'examples', 'vocab'
      or 'random'; another prompt, or its arrays, such as [P, H]. None = the task's hard
      prompt.
    kind: `embedding`, `deep` or `residual`.
    position: `prefix`, before the source, or `suffix`, after it.
    name: for people.
  """

  length: int | None = None
  init: Any = None
  kind: str = 'embedding'
  position: str = 'prefix'
  name: str = ''

  @property
  def start(self) -> Params | None:
    """The arrays that it is to begin at; None if they are made of words."""
    if self.init is None or isinstance(self.init, str):
      return None
    init = self.init.params if isinstance(self.init, Prompt) else self.init
    arrays = init if isinstance(init, Mapping) else {'embeddings': init}
    arrays = kinds.fold(dict(arrays))
    arrays = {name: np.asarray(x, np.float32) for name, x in arrays.items()}
    shapes = {name: x.shape for name, x in arrays.items()}
    if {name: len(shape) for name, shape in shapes.items()} not in _DIMENSIONS:
      raise errors.UserError(
        f'init is arrays of the shapes {shapes}; expected a text, a prompt, its '
        'params, or embeddings [P, H]'
      )
    return arrays

  @property
  def fields(self) -> dict[str, Any]:
    """The fields of a config that describe it, {name: value}."""
    start, given = self.start, {'kind': self.kind, 'position': self.position}
    if self.length is not None:
      given['length'] = self.length
    if self.name:
      given['name'] = self.name
    if start is not None:
      length = kinds.length(start)
      if self.length not in (None, length):
        raise errors.UserError(
          f'length is {self.length}, and init has {length} virtual tokens; leave it out'
        )
      given |= {'length': length, 'init': f'arrays {kinds.digest(start)[:16]}'}
    elif self.init == 'text' or (self.init and _is_place(self.init)):
      raise errors.UserError(
        f'init is {self.init!r}, which would be the words of the prompt; leave it out '
        "for the task's hard prompt, or give what jp.load_prompt returns"
      )
    elif self.init in ('examples', 'vocab', 'random'):
      given['init'] = self.init
    else:
      given |= {'init': 'text', 'text': self.init or ''}
    return {
      f'prompt.{name}': fields_lib.FIELDS[f'prompt.{name}'].check(value, name)
      for name, value in given.items()
    }


def _is_place(text):
  """Returns whether a text is the path of a directory, which no wording is."""
  return os.sep in text and os.path.isdir(text)


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
  """A soft prompt and how it is used; `jp.train` and `jp.load_prompt` give one."""

  model: Model
  use: trained_lib.TrainedPrompt
  name: str
  tuning: dict[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def params(self) -> Params:
    """Its arrays, float32: `embeddings` [P, H] or `keys_values`, as they are used."""
    return self.use.arrays

  def __repr__(self) -> str:
    length = kinds.length(self.params)
    return f'Prompt({self.name!r}, {length} virtual tokens, {self.use.position})'

  @arguments.named()
  def replace(self, params: Params) -> 'Prompt':
    """Returns the same prompt with other arrays, as a loop of one's own gives them."""
    arguments.check_is(Mapping, 'the params of a prompt', params=params)
    arrays = jax.tree.map(np.asarray, kinds.fold(jax.device_get(params)))
    check_shapes(arrays, self.model.lm.spec, 'params')
    use = dataclasses.replace(self.use, arrays=arrays)
    return dataclasses.replace(self, use=use)

  def nearest_tokens(self) -> list[dict[str, Any]]:
    """Returns for each virtual token the nearest tokens, cosines and relative norm."""
    return comparison.nearest(self.model, kinds.fold(self.params))

  @arguments.named()
  def export(
    self,
    directory: str | os.PathLike,
    *,
    format: str = 'peft',
    rows: Rows | None = None,
    overwrite: bool = False,
  ):
    """Writes the prompt for other programs.

    Args:
      directory: a new one; with `overwrite`, one that was written so before.
      format: `peft`, an adapter; `merged`, a checkpoint with the prompt in it; or
        `embeddings`, the array and how it is used.
      rows: of `merged`, validation rows: the virtual tokens are as unlikely as the
        token that is the least likely there.
    """
    if rows is not None:
      arguments.check_is(Rows, 'rows, such as data.validation', rows=rows)
    if (format == 'merged') != bool(rows):
      raise errors.UserError(
        f'rows is {rows!r}, and format {format!r}; expected validation rows with '
        "format 'merged', and with no other"
      )
    name = self.use.task.name
    write({name: self}, directory, format, {name: rows} if rows else {}, overwrite)


def check_shapes(arrays, spec, what):
  """Raises `UserError` for arrays that are no prompt of a model.

  Args:
    arrays: see `kinds`, folded.
    spec: `lm.spec.Spec` of the model.
    what: the argument that has them.
  """
  length = kinds.length(arrays)
  expected = {
    'embeddings': (length, spec.width),
    'keys_values': (spec.blocks, 2, spec.kv_heads, length, spec.head_dim),
  }
  for name, array in arrays.items():
    if array.shape != expected[name]:
      raise errors.UserError(
        f'{what} has {name} {array.shape}; expected {expected[name]}, as the model has'
      )


def write(
  prompts: Mapping[str, Prompt],
  directory: str | os.PathLike,
  format: str,
  rows: Mapping[str, Rows],
  overwrite: bool,
):
  """Writes prompts of one model as files, see `exports`."""
  if format not in exports.FORMATS:
    raise errors.UserError(
      f'format is {format!r}; expected one of {", ".join(exports.FORMATS)}'
    )
  place = workdir_lib.local(os.fspath(directory), 'directory')
  uses = {
    name: dataclasses.replace(prompt.use, arrays=kinds.fold(prompt.params))
    for name, prompt in prompts.items()
  }
  exports.check(uses, place, format, overwrite)
  exports.write(
    place,
    uses,
    format,
    next(iter(prompts.values())).model,
    {name: own.table for name, own in rows.items()},
    overwrite=overwrite,
    batch_size=fields_lib.FIELDS['eval.batch_size'].default,
    progress=terminal.show_progress(),
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """What training has left.

  Attributes:
    prompt: the one with the lowest validation loss.
    history: of each validation: `epoch`, `step`, `train_loss`, `validation_loss`, ...
    steps: of each optimiser step: `step`, `train_loss`, `learning_rate`, ...
    workdir: with the checkpoints; None of a run that has kept none.
  """

  prompt: Prompt
  history: list[dict[str, Any]] = dataclasses.field(repr=False)
  steps: list[dict[str, Any]] = dataclasses.field(repr=False)
  workdir: str | None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Comparison:
  """What was measured of prompts on the same rows, as results.json has it.

  Attributes:
    test: {prompt: {figure: value}}, with `ci95`, the 95% intervals over rows.
    differences: of each two prompts and each figure.
    tuning: {prompt: what it learned from, and what it costs}.
    predictions: {prompt: of each row `prediction`, `target`, `scores`, ...}.
  """

  test: dict[str, dict[str, Any]]
  differences: list[dict[str, Any]]
  tuning: dict[str, dict[str, Any]]
  predictions: dict[str, list[dict[str, Any]]]

  @property
  def figures(self) -> list[str]:
    """The names of what was measured: the loss, and the task's metrics."""
    return list(next(iter(self.test.values()))['ci95'])

  def table(self, figures: Sequence[str] = ()) -> str:
    """Returns the figures, or those of these names, as a text table."""
    for figure in figures:
      _check_known(figure, self.figures)
    return results.arms_table(self.test, figures or self.figures)

  __str__ = __repr__ = table

  def difference(self, prompt: str, other: str, figure: str = '') -> dict[str, Any]:
    """Returns by how much a figure differs, or else the main metric, row by row.

    `ci95` is its interval; `better` says whether it is for the better, None = the
    interval holds 0.
    """
    figure = figure or self.figures[1]
    _check_known(prompt, self.test)
    _check_known(other, [name for name in self.test if name != prompt])
    _check_known(figure, self.figures)
    return results.difference({'differences': self.differences}, figure, prompt, other)


def _check_known(name, known):
  if name not in known:
    raise errors.UserError(f'{name!r} is unknown; expected one of {", ".join(known)}')
