"""The Python API: what is done with the nouns of `nouns`.

The arguments become the config of a run, so that these functions and the command are
the same code. docs/python.md shows them in use.
"""

import contextlib
import os
import tempfile
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Unpack

import jax

from jaxprompt import arguments
from jaxprompt import config as config_lib
from jaxprompt import errors
from jaxprompt import fields as fields_lib
from jaxprompt import nouns
from jaxprompt import uses
from jaxprompt import written
from jaxprompt.data import sources as sources_lib
from jaxprompt.devices import devices
from jaxprompt.infer import decode
from jaxprompt.infer import evaluate
from jaxprompt.infer import predict
from jaxprompt.prompts import batch as batch_lib
from jaxprompt.prompts import kinds
from jaxprompt.runs import comparison
from jaxprompt.runs import records
from jaxprompt.runs import results
from jaxprompt.runs import run as run_lib
from jaxprompt.runs import setup
from jaxprompt.runs import trained_prompts
from jaxprompt.runs import workdir as workdir_lib
from jaxprompt.tasks import tasks
from jaxprompt.training import loop
from jaxprompt.training import steps
from jaxprompt.training import terminal

_SOFT = nouns.Soft()


@arguments.named()
def load_model(
  path: str = 'gpt2', *, dtype: str = 'float32', precision: str = 'highest'
) -> nouns.Model:
  """Loads a frozen model onto all devices.

  Args:
    path: a hub id, a checkpoint's directory, or `tiny`, the model of the package.
    dtype: of weights and compute, float32 or bfloat16.
    precision: of float32's products; `highest`, or `default`, what the device likes.
  """
  config = config_lib.default('text')
  config.model.update(
    path=config_lib.FIELDS['model.path'].check(path, 'path'),
    dtype=config_lib.FIELDS['model.dtype'].check(dtype, 'dtype'),
    precision=config_lib.FIELDS['model.precision'].check(precision, 'precision'),
  )
  return setup.load_model(config.model, devices.layout(**config.parallel))


@arguments.named()
def load_data(
  source: str | os.PathLike | Mapping[str, Sequence[dict]],
  task: tasks.Task,
  model: nouns.Model,
  **settings: Unpack[arguments.Reading],
) -> nouns.Data:
  """Reads the rows of a task as a model's tokens.

  Args:
    source: the id of a data set on the hub, a directory or a file of rows, `tiny`; or
      the rows themselves, {'train': [{column: value}, ...], 'validation': ...}.
    task: what is made of a row.
    model: whose tokenizer it is.
    **settings: see `arguments.Reading`.
  """
  fields = arguments.check(arguments.Reading, settings)
  in_memory = isinstance(source, Mapping)
  if not in_memory:
    expected = "a path, or {'train': rows, ...}"
    arguments.check_is(str | os.PathLike, expected, source=source)
    fields['data.path'] = os.fspath(source)
  config = _config(model, task, fields)
  raw = sources_lib.given(source) if in_memory else setup.read(config)
  progress = terminal.show_progress()
  splits = setup.load_splits(task, model.template, raw, config.data, progress)
  own = {name: nouns.Rows(x.rows, task, model, fields) for name, x in splits.items()}
  return nouns.Data(**own, _splits=splits)


@arguments.named()
def train(
  model: nouns.Model,
  data: nouns.Data,
  prompt: nouns.Soft = _SOFT,
  *,
  workdir: str | os.PathLike | None = None,
  **settings: Unpack[arguments.Training],
) -> nouns.Run:
  """Trains a soft prompt.

  Args:
    model, data: what it is trained with.
    prompt: what to train.
    workdir: keeps checkpoints, metrics and TensorBoard's files; a run that is called
      again with it goes on where it stopped. None = nothing is kept.
    **settings: see `arguments.Training`.
  """
  fields = arguments.check(arguments.Training, settings)
  experiment = _with_rows(model, data, prompt, fields)
  begun = _begin(experiment, prompt)
  with contextlib.ExitStack() as stack:
    path = workdir
    if workdir is None:
      path = stack.enter_context(tempfile.TemporaryDirectory(prefix='jaxprompt-'))
    place = stack.enter_context(run_lib.held_workdir(path, experiment.config))
    records.check_content(place, experiment.fingerprints)
    termination = loop.Termination(handles_signal=False)
    fitted = run_lib.fit(experiment, begun, place, termination)
    metrics = records.read_metrics(place)
  tuning = comparison.spent(fitted.best, data._splits, fitted.epochs)
  return nouns.Run(
    prompt=_prompt(experiment, fitted.best, tuning),
    history=fitted.epochs,
    steps=[line for line in metrics if 'train_loss' in line],
    workdir=None if workdir is None else os.fspath(workdir),
  )


@arguments.named()
def init_prompt(
  model: nouns.Model,
  data: nouns.Data,
  prompt: nouns.Soft = _SOFT,
  *,
  seed: int = 0,
) -> nouns.Prompt:
  """Returns a soft prompt before training, for a loop of one's own."""
  experiment = _with_rows(model, data, prompt, {'seed': seed})
  return _prompt(experiment, _begin(experiment, prompt), {})


@arguments.named()
def load_prompt(
  directory: str | os.PathLike,
  model: nouns.Model,
  task: tasks.Task | None = None,
  **settings: Unpack[arguments.Lengths],
) -> nouns.Prompt:
  """Loads a trained prompt.

  Args:
    directory: the workdir of a run; or a PEFT adapter, which says nothing of its use.
    model: with which it was trained.
    task: of an adapter.
    **settings: of an adapter; see `arguments.Lengths`.
  """
  place = workdir_lib.resolve(directory)
  trained_prompts.check_holds(place)
  is_run = (place / 'config.json').exists()
  if is_run and (task or settings):
    raise errors.UserError(
      f'task is given, or {", ".join(settings) or "lengths"}; {str(directory)!r} is a '
      'run, which has its own: leave them out'
    )
  if not is_run and task is None:
    raise errors.UserError(
      f'task is missing; {str(directory)!r} is no run, and an adapter says nothing of '
      'its task'
    )
  own = task or _TEXT
  config = _config(model, own, arguments.check(arguments.Lengths, settings))
  experiment = setup.on_model(config, model, terminal.show_progress())
  use = trained_prompts.load_prompt(experiment, place)
  return nouns.Prompt(model, use, use.task.prompt_name)


@arguments.named()
def compare(
  model: nouns.Model,
  rows: nouns.Rows,
  prompts: Mapping[str, nouns.Prompt | written.Written],
  **settings: Unpack[arguments.Measuring],
) -> nouns.Comparison:
  """Measures prompts on the same rows: loss, metrics, and their paired differences.

  Args:
    model, rows: what they are measured with.
    prompts: by names of one's own.
    **settings: see `arguments.Measuring`; answers have at most `max_target_tokens` of
      the rows, if `max_new_tokens` is not given.
  """
  fields = arguments.check(arguments.Measuring, settings)
  arguments.check_is(nouns.Rows, 'rows, such as data.test', rows=rows)
  arguments.check_is(Mapping, '{name: prompt}', prompts=prompts)
  if not prompts or not len(rows):
    raise errors.UserError(
      f'prompts: {len(prompts)}, rows: {len(rows)}; expected at least one of each'
    )
  uses.check_prompts(model, {f'prompts[{name!r}]': x for name, x in prompts.items()})
  uses.check_model(model, rows=rows)
  lengths = [
    kinds.length(x.params) for x in prompts.values() if isinstance(x, nouns.Prompt)
  ]
  longest = {'prompt.length': max(lengths, default=1)}
  config = _config(model, rows.task, rows.fields | longest | fields)
  setup.check_rows(config, model, {'test': rows.table})
  experiment = setup.on_model(config, model, terminal.show_progress())
  measured = {
    name: _measure(experiment, name, prompt, rows.table)
    for name, prompt in prompts.items()
  }
  return nouns.Comparison(
    **results.compared(measured, config.seed),
    predictions={
      name: results.predictions(own, rows.table) for name, own in measured.items()
    },
  )


def _measure(experiment, name, prompt, table):
  """Returns the `results.Measured` of one prompt."""
  if isinstance(prompt, nouns.Prompt):
    found = evaluate.evaluate(experiment.evaluator, prompt.use.placement, table, name)
    tuning = comparison.spent(prompt.params, {}, []) | prompt.tuning
    return results.Measured([found], tuning)
  model, validation = experiment.model, prompt.validation
  wordings = prompt.wordings(model.template)
  new_tokens = setup.answer_tokens(experiment.config, model.template)
  for wording in wordings:
    for own in (table, validation and validation.table):
      if own is not None:
        setup.check_wording(model, name, wording, own, new_tokens)
  return comparison.measure(
    experiment, name, wordings, table, validation and validation.table
  )


@arguments.named()
def generate(
  model: nouns.Model,
  prompt: nouns.Prompt | written.Written | Sequence[nouns.Prompt | written.Written],
  sources: Sequence[str | dict],
  *,
  task: tasks.Task | None = None,
  **settings: Unpack[arguments.Answering],
) -> list[str]:
  """Answers sources; with labels, by the likeliest of them.

  Args:
    model: the one that the prompts are of.
    prompt: of all sources, or a list of each one's own: they share the batches.
    sources: texts, or rows that have the columns of the task.
    task: of prompts that are written; the trained ones know theirs.
    **settings: see `arguments.Answering`. What is not given is as a trained prompt was
      trained; temperature 0 takes the likeliest token.
  """
  fields = arguments.check(arguments.Answering, settings)
  drawing = {field.name: field.default for field in fields_lib.SAMPLING}
  drawing |= {name: fields.pop(name) for name in drawing.keys() & fields.keys()}
  if isinstance(sources, str | dict):
    raise errors.UserError(f'sources is {sources!r:.60}; expected a list of them')
  if isinstance(prompt, str) or not isinstance(prompt, Sequence):
    prompt = [prompt] * len(sources)
  if len(prompt) != len(sources):
    raise errors.UserError(
      f'prompt has {len(prompt)} for {len(sources)} sources; expected one for each'
    )
  uses.check_prompts(model, {f'prompt[{i}]': each for i, each in enumerate(prompt)})
  if not len(sources):
    return []
  own = {id(each): each for each in prompt}
  places = {key: i for i, key in enumerate(own)}
  config = _config(model, task or _TEXT, fields)
  experiment = setup.on_model(config, model, terminal.show_progress())
  given = {key: config.eval[key] for key in _OWN & settings.keys()}
  found = predict.answers(
    experiment,
    [uses.use(experiment, each, given) for each in own.values()],
    list(zip([places[id(each)] for each in prompt], sources, strict=True)),
    seed=drawing.pop('seed'),
    sampling=decode.sampling(**drawing),
  )
  return [answer['prediction'] for answer in found]


_TEXT = tasks.Task('{text}', '{target}')
_OWN = {'max_new_tokens', 'beams', 'calibration'}  # settings that a prompt has too


@arguments.named()
def merge(
  prompts: Mapping[str, nouns.Prompt],
  rows: Mapping[str, nouns.Rows],
  directory: str | os.PathLike,
  *,
  overwrite: bool = False,
):
  """Writes a checkpoint with several prompts, each where a text has its `<|name|>`.

  One alone stands around every text, as `Prompt.export` has it.

  Args:
    prompts: by names, of letters, digits, _, . and -.
    rows: each one's validation rows: the virtual tokens are as unlikely as the token
      that is the least likely there.
    directory: a new one; with `overwrite`, one that was written so before.
  """
  arguments.check_is(Mapping, '{name: what is of it}', prompts=prompts, rows=rows)
  if not prompts or rows.keys() != prompts.keys() or not all(rows.values()):
    raise errors.UserError(
      f'rows has {list(rows)}, prompts has {list(prompts)}; expected the same names, '
      'and rows for each'
    )
  for name, each in prompts.items():
    if not isinstance(each, nouns.Prompt):
      raise errors.UserError(f'prompts[{name!r}] is {each!r:.60}; expected a soft one')
  model = next(iter(prompts.values())).model
  uses.check_model(
    model, **{f'prompts[{name!r}]': each for name, each in prompts.items()}
  )
  own = {f'rows[{name!r}]': each for name, each in rows.items()}
  arguments.check_is(nouns.Rows, 'rows, such as data.validation', **own)
  uses.check_model(model, **own)
  nouns.write(prompts, directory, 'merged', rows, overwrite)


def loss(params: nouns.Params, model: nouns.Model, batch: batch_lib.Batch) -> jax.Array:
  """Returns the mean loss of a prompt's arrays on a batch, in nats per target token.

  A pure function: `jax.jit`, `jax.grad` and `jax.vmap` take it, the model is a tree of
  its weights. The prompt stands where `Rows.batches` was told.
  """
  nats, tokens = steps.sums(model.lm, model.params, params, batch)
  return nats / tokens


def _config(model, task, fields):
  """Returns the config of a task on a model, with the fields that are given."""
  config = config_lib.default(task.name)
  of_task = config_lib.of_task(task)
  of_task['hard_prompt'] = task.hard_prompt or tasks.hard_prompt(task.labels)
  of_task['prompt.name'] = task.prompt_name or config.prompt.name
  defaults = {
    'arms': ('soft',),
    'model.path': model.path,
    'model.dtype': model.dtype,
    'model.precision': model.precision,
    'data.path': sources_lib.IN_MEMORY,
  }
  if 'data.max_target_tokens' in fields:
    defaults['eval.max_new_tokens'] = fields['data.max_target_tokens']
  config.update_from_flattened_dict(of_task | defaults | fields)
  config_lib.check(config)
  return config_lib.single_run(config)


def _with_rows(model, data, prompt, fields):
  """Returns the `setup.Experiment` of training a `nouns.Soft`."""
  arguments.check_is(nouns.Data, 'what jp.load_data returns', data=data)
  uses.check_model(model, data=data.train)
  if not isinstance(prompt, nouns.Soft):
    raise errors.UserError(f'prompt is {prompt!r:.60}; expected a jp.Soft to train')
  fields = data.train.fields | prompt.fields | fields
  config = _config(model, data.train.task, fields)
  model.layout.check_divides(config.train.batch_size)
  experiment = setup.on_model(config, model, terminal.show_progress())
  return setup.with_splits(experiment, data._splits)


def _begin(experiment, prompt):
  """Returns the arrays of a `nouns.Soft` before training, see `kinds`."""
  start = prompt.start
  if start is None:
    return trained_prompts.initial_prompt(experiment)
  nouns.check_shapes(start, experiment.lm.spec, 'init')
  return trained_prompts.begun_at(experiment, start)


def _prompt(experiment, arrays, tuning):
  use = trained_prompts.as_configured(arrays, experiment.config)
  return nouns.Prompt(experiment.model, use, use.task.prompt_name, tuning)
