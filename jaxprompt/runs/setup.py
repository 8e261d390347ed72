"""From a config to what a run works with: model, rows, programs."""

import dataclasses
import functools
import logging

import jax
import numpy as np

from jaxprompt import config as config_lib
from jaxprompt import embedded
from jaxprompt import errors
from jaxprompt.data import rows as rows_lib
from jaxprompt.data import sources
from jaxprompt.devices import devices
from jaxprompt.devices import shapes
from jaxprompt.infer import decode
from jaxprompt.infer import evaluate
from jaxprompt.infer import labels as labels_lib
from jaxprompt.lm import loading
from jaxprompt.lm import model as lm_model
from jaxprompt.prompts import arms
from jaxprompt.prompts import placement
from jaxprompt.tasks import tasks
from jaxprompt.tasks import template as template_lib
from jaxprompt.training import steps

log = logging.getLogger(__name__)


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['params'],
  meta_fields=['lm', 'template', 'layout', 'path', 'dtype', 'precision', 'fingerprint'],
)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model:
  """A frozen model on the devices; to JAX, a tree of its weights.

  Attributes:
    params: the weights, placed; or their shapes, where none are loaded.
    lm: its functions.
    template: how texts become its tokens.
    layout: of the devices.
    path, dtype, precision: what it was loaded by.
    fingerprint: items of what `loading.Model` says of the content.
  """

  params: dict
  lm: lm_model.LanguageModel
  template: template_lib.Template
  layout: devices.Layout
  path: str
  dtype: str
  precision: str
  fingerprint: tuple[tuple[str, str], ...]

  @property
  def tokenizer(self):
    return self.template.tokenizer

  @property
  def size(self):
    """The number of weights."""
    return sum(x.size for x in jax.tree.leaves(self.params))

  @property
  def title(self):
    """What it is and where, for people."""
    return f'{self.path}, {self._details()}'

  def _details(self):
    kinds = {device.device_kind: 0 for device in self.layout.mesh.devices.flat}
    return (
      f'{self.dtype}, {self.size:,} weights, on {self.layout.mesh.size} x '
      f'{", ".join(kinds)}'
    )

  def __repr__(self):
    return f'Model({self.path!r}, {self._details()})'


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What all modes share, built once."""

  config: object  # ml_collections.ConfigDict
  task: tasks.Task
  model: Model
  evaluator: evaluate.Evaluator
  fingerprints: dict[str, str]  # of the model, and of the splits
  splits: dict[str, rows_lib.Rows] = dataclasses.field(default_factory=dict)
  wordings: dict[str, list[arms.Wording]] = dataclasses.field(default_factory=dict)

  @property
  def lm(self):
    return self.model.lm

  @property
  def layout(self):
    return self.model.layout

  @property
  def params(self):
    return self.model.params

  @property
  def template(self):
    return self.model.template


def build(config, layout, progress, weights=True):
  """Loads data and model.

  Args:
    config: from `config.default`, checked.
    layout: `devices.Layout`.
    progress: see `evaluate.Evaluator`.
    weights: see `load_model`.

  Raises:
    UserError: for what the config asks for and cannot have.
  """
  # The data first: its mistakes show at once, a large model takes a while to load.
  raw = read(config)
  model = load_model(config.model, layout, weights)
  experiment = on_model(config, model, progress)
  splits = load_splits(experiment.task, experiment.template, raw, config.data, progress)
  return with_splits(experiment, splits)


def read(config):
  """Returns {name: `sources.Split`} of a config's data."""
  path = embedded.data_path(config.data.path, config.task)
  return sources.read(path, config.data.subset, seed=config.data.seed)


def load_splits(task, template, raw, settings, progress):
  """Returns {name: `rows_lib.Rows`} of {name: `sources.Split`}, which this empties.

  The other arguments are those of `load_rows`.
  """
  return {
    name: load_rows(task, template, name, raw.pop(name), settings, progress)
    for name in sources.SPLITS
  }


def load_rows(task, template, name, split, settings, progress):
  """Tokenises the rows of one split.

  Args:
    task: `tasks.Task`.
    template: `template.Template`.
    name: of the split.
    split: `sources.Split`.
    settings: the section `data` of a config.
    progress: see `evaluate.Evaluator`.

  Returns:
    `rows_lib.Rows`.
  """
  size = settings[f'{name}_size']
  if settings.sample == 'random':
    split = sources.sample(split, size, settings.seed)
  return rows_lib.load(
    template,
    task,
    split,
    size=size,
    max_source_tokens=settings.max_source_tokens,
    max_target_tokens=settings.max_target_tokens,
    skip=settings.bad_rows == 'skip',
    progress=lambda parts: progress(parts, f'{name} tokens'),
  )


def with_splits(experiment, splits):
  """Returns the experiment with rows, {name: `rows_lib.Rows`}; raises as `build`."""
  config = experiment.config
  for split, rows in splits.items():
    log.info(
      '%s: %d rows, %d sources and %d targets cut, %d rows skipped',
      split,
      len(rows.rows),
      rows.sources_cut,
      rows.targets_cut,
      rows.skipped,
    )
  check_rows(config, experiment.model, {name: x.rows for name, x in splits.items()})
  experiment.task.try_metrics(splits['test'].rows[0])
  fingerprints = {split: rows.fingerprint for split, rows in splits.items()}
  return dataclasses.replace(
    experiment,
    splits=splits,
    fingerprints=experiment.fingerprints | fingerprints,
    wordings=_wordings(experiment, splits),
  )


def _wordings(experiment, splits):
  """Returns the `arms.Wording`s of each written arm.

  Raises:
    UserError: for an arm that the model cannot have, or has no positions for.
  """
  config, model, template = experiment.config, experiment.model, experiment.template
  rows = [*splits['validation'].rows, *splits['test'].rows]
  new_tokens = answer_tokens(config, template)
  bare = _longest(arms.BARE, template, rows, new_tokens)
  given = arms.Given(
    template=template,
    examples=splits['train'].rows,
    hard_prompt=config.hard_prompt,
    hard_prompts=config.hard_prompts,
    shots=config.few_shot.examples,
    draws=config.few_shot.draws,
    room=model.lm.spec.max_positions - bare,
  )
  found = {
    name: arms.ARMS[name].wordings(given)
    for name in config.arms
    if arms.ARMS[name].wordings
  }
  for name, wordings in found.items():
    for wording in wordings:
      check_wording(model, name, wording, rows, new_tokens)
  return found


def check_wording(model, name, wording, rows, max_new_tokens):
  """Refuses an `arms.Wording` that makes one of the rows longer than the positions."""
  total = _longest(wording, model.template, rows, max_new_tokens)
  if total > model.lm.spec.max_positions:
    raise errors.UserError(
      f'the arm {name} with {wording.text!r:.80} makes a row of {total} tokens, answer '
      f'and all; model.path {model.path!r} has {model.lm.spec.max_positions} '
      'positions: shorten the text, or lower data.max_source_tokens'
    )


def _longest(wording, template, rows, max_new_tokens):
  """Returns the tokens of the longest of `rows_lib.Row`s, with any answer to it."""
  pairs = zip(*arms.reworded(wording, template, rows), strict=True)
  longest = max(len(ids) + max(len(answer), max_new_tokens) for ids, answer in pairs)
  return len(arms.ids_in_front(wording, template)) + longest


def build_model(config, layout, progress):
  """Loads the model alone; the arguments and errors are those of `build`."""
  return on_model(config, load_model(config.model, layout), progress)


def load_model(settings, layout, weights=True):
  """Loads a model.

  Args:
    settings: the section `model` of a config.
    layout: `devices.Layout`.
    weights: whether they are loaded; if not, `params` are their shapes, placed, and
      nothing has a fingerprint.
  """
  if weights:
    lm, params, tokenizer, fingerprint = loading.load(
      settings.path, settings.dtype, layout.placements
    )
  else:
    _, lm, tokenizer = loading.describe(settings.path, settings.dtype)
    params, fingerprint = abstract_params(lm, layout), {}
  return Model(
    params=params,
    lm=lm.on(layout.platform, settings.precision),
    template=template_lib.Template(tokenizer, lm.end_ids),
    layout=layout,
    path=settings.path,
    dtype=settings.dtype,
    precision=settings.precision,
    fingerprint=tuple(fingerprint.items()),
  )


def abstract_params(lm, layout):
  """Returns the shapes of a model's weights, in its dtype, on a layout's devices."""
  stored = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, lm.dtype), lm_model.shapes(lm)
  )
  return shapes.params(layout, lm, stored)


def on_model(config, model, progress):
  """Returns the `Experiment` of a config on a model that is loaded, without rows."""
  own = evaluator(config, model, progress)
  return Experiment(config, own.task, model, own, dict(model.fingerprint))


def evaluator(config, model, progress, members=1):
  """Returns the `evaluate.Evaluator` of a config.

  With several members, its arms are each the `placement.stack` of so many prompts.
  """
  row_losses, generate, score = programs_of(
    config.eval, model.lm, model.layout, members
  )
  return evaluate.Evaluator(
    task=config_lib.task_of(config),
    template=model.template,
    layout=model.layout,
    params=model.params,
    row_losses=row_losses,
    generate=generate,
    score=score,
    calibration=config.eval.calibration,
    batch_size=model.layout.round_up(config.eval.batch_size),
    progress=progress,
  ).shared(members)


def programs_of(settings, lm, layout, members=1):
  """Returns the `programs` that the section `eval` of a config asks for."""
  options = decode.Options(
    max_new_tokens=settings.max_new_tokens,
    end_ids=lm.end_ids,
    beams=settings.beams,
    members=members,
    axis_name=devices.DATA,
  )
  return programs(lm, layout, options, settings.calibration)


@functools.lru_cache(maxsize=8)  # one measurement after another compiles nothing new
def programs(lm, layout, options, calibration):
  """Returns the compiled programs of an `evaluate.Evaluator`."""
  members = options.members
  losses = functools.partial(steps.row_losses, lm)
  if members > 1:
    losses = functools.partial(steps.ensemble_losses, lm, members)
  scores = labels_lib.program(lm, calibration, members)

  def own(arm, rows):
    return arm if members == 1 else placement.for_rows(arm, len(rows))

  def row_losses(params, arm, batch):
    return losses(params, own(arm, batch.input_ids), batch)

  def generate(params, arm, rows):
    return decode.generate(lm, params, own(arm, rows[0]), *rows, options)

  def score(params, asked, rows):
    arm, labels = asked
    return scores(params, (own(arm, rows[0]), labels), rows)

  return layout.gather(row_losses), layout.gather(generate), layout.gather(score)


def source_room(lm, template, around, new_tokens):
  """Like `Template.room`, but of a model and never too small.

  Raises:
    UserError: if there is none.
  """
  positions = lm.spec.max_positions
  room = template.room(positions, around, new_tokens)
  if room < 1:
    raise errors.UserError(
      f'an answer may have {new_tokens} tokens, which leaves no room for a source '
      f'beside a prompt of {around} tokens in the {positions} positions of the model; '
      'lower eval.max_new_tokens, or shorten the labels'
    )
  return room


def answer_tokens(config, template):
  """Returns how many tokens an answer may have, see `Template.answer_tokens`."""
  return template.answer_tokens(config.example.labels, config.eval.max_new_tokens)


def check_rows(config, model, tables):
  """Refuses rows, {split: `rows_lib.Table`}, for which positions are too few."""
  for split, rows in tables.items():
    sources, targets = rows.lengths.T  # [E] each
    if split != 'train':
      targets = np.maximum(targets, answer_tokens(config, model.template))
    total = config.prompt.length + int((sources + targets).max())
    if total > model.lm.spec.max_positions:
      raise errors.UserError(
        f'prompt.length ({config.prompt.length}) and the longest row of {split}, '
        f'answer and all make {total} tokens; model.path {config.model.path!r} has '
        f'{model.lm.spec.max_positions} positions: lower prompt.length, '
        'data.max_source_tokens, data.max_target_tokens or eval.max_new_tokens'
      )


def of_table(model, function):
  """Returns what a function of all tokens' embeddings gives, as host arrays."""

  def of_params(params):
    return function(model.lm.vocabulary(params))

  return jax.device_get(model.layout.whole(of_params)(model.params))
