"""The comparison: every arm measured on the test rows, and what a run leaves of it."""

import dataclasses
import functools
import time

import jax
import numpy as np

from jaxprompt.data import loader
from jaxprompt.data import rows as rows_lib
from jaxprompt.devices import processes
from jaxprompt.infer import evaluate
from jaxprompt.prompts import arms
from jaxprompt.prompts import kinds
from jaxprompt.prompts import placement
from jaxprompt.prompts import prompt
from jaxprompt.runs import records
from jaxprompt.runs import results
from jaxprompt.runs import setup
from jaxprompt.runs import workdir as workdir_lib
from jaxprompt.tasks import metrics
from jaxprompt.tasks import statistics
from jaxprompt.training import epochs as epochs_lib

_NEAREST = 5  # vocabulary tokens named for each virtual one


def in_front(model, ids):
  """Returns the `placement.Placement` of token ids before every row."""
  embed = model.layout.whole(model.lm.embed)
  embeds = jax.device_get(embed(model.params, np.asarray(ids, np.int32)))  # [P, H]
  return placement.place(embeds.astype(np.float32), 'prefix')


def measure_written(experiment):
  """Measures the written arms on the test rows; returns {arm: `results.Measured`}."""
  splits = experiment.splits
  return {
    name: measure(
      experiment,
      name,
      wordings,
      splits['test'].rows,
      splits['validation'].rows if arms.ARMS[name].chooses else None,
    )
    for name, wordings in experiment.wordings.items()
  }


def measure(experiment, name, wordings, rows, validation=None):
  """Returns the `results.Measured` of a written arm.

  Args:
    experiment: `setup.Experiment`; its splits are not looked at.
    name: of the arm.
    wordings: its `arms.Wording`s.
    rows: a `rows_lib.Table` to measure it on.
    validation: one to choose the best of the wordings by; None = all are measured, and
      are draws of one arm.
  """
  tuning = {'texts': len({x.text for x in wordings if x.text != arms.SOURCE})}
  if validation is not None:
    tuning |= _validated(experiment, wordings, name, validation)
    losses = [each['validation_loss'] for each in tuning['tried']]
    wordings = [wordings[int(np.argmin(losses))]]
  draws, lengths = [], []
  for i, wording in enumerate(wordings, 1):
    label = f'test, {name}' + (f' {i}/{len(wordings)}' if len(wordings) > 1 else '')
    before = arms.ids_in_front(wording, experiment.template)
    own_rows = rows.retokenised(*arms.reworded(wording, experiment.template, rows))
    draws.append(
      evaluate.evaluate(
        experiment.evaluator,
        in_front(experiment.model, before),
        own_rows,
        label,
        wording,
      )
    )
    more = own_rows.lengths[:, 0].mean() - rows.lengths[:, 0].mean()
    lengths.append(len(before) + more)
  if any(wording.shown for wording in wordings):
    rows_shown = [len(wording.shown) for wording in wordings]
    tuning |= {'texts': 0, 'rows': round(np.mean(rows_shown))}
  return results.Measured(
    draws,
    {**tuning, 'tokens': float(np.mean(lengths)), 'text': wordings[0].text},
    wordings,
  )


def _validated(experiment, wordings, name, rows):
  """Returns what the choice between wordings was made by, for an arm's tuning.

  All are measured at once, spelled out in the rows: a few programs serve them all.
  """
  began, source_ids, target_ids = time.monotonic(), [], []
  label = f'validation, {name}'
  for wording in wordings:
    before = arms.ids_in_front(wording, experiment.template)
    sources, targets = arms.reworded(wording, experiment.template, rows)
    source_ids += [[*before, *ids] for ids in sources]
    target_ids += targets
  nats, counts = evaluate.losses(
    experiment.evaluator,
    in_front(experiment.model, []),
    rows_lib.table(source_ids, target_ids),
    label,
  )
  evaluate.check_finite(nats, label)
  each = zip(
    np.split(nats, len(wordings)), np.split(counts, len(wordings)), strict=True
  )
  losses = [statistics.figure(statistics.ratio(*own)) for own in each]
  return {
    'validation_rows': len(rows),
    'seconds': time.monotonic() - began,
    'tried': [
      {'text': wording.text, 'validation_loss': loss}
      for wording, loss in zip(wordings, losses, strict=True)
    ],
  }


def measure_soft(experiment, trained, epochs):
  """Returns the `results.Measured` of a trained prompt's arrays on the test rows."""
  placed = kinds.place(trained, experiment.config.prompt.position)
  rows = experiment.splits['test'].rows
  measured = evaluate.evaluate(experiment.evaluator, placed, rows, 'test, soft')
  return results.Measured([measured], spent(trained, experiment.splits, epochs))


def measure_ensemble(experiment, prompts):
  """Returns the `evaluate.Evaluation` of prompts that answer together.

  Args:
    experiment: `setup.Experiment`.
    prompts: the arrays of each, of the config's kind.
  """
  config, progress = experiment.config, experiment.evaluator.progress
  arm = placement.stack([kinds.place(x, config.prompt.position) for x in prompts])
  own = setup.evaluator(config, experiment.model, progress, len(prompts))
  rows = experiment.splits['test'].rows
  return evaluate.evaluate(own, arm, rows, f'test, {len(prompts)} together')


def spent(trained, splits, epochs):
  """Returns what a prompt learned from and costs, see `results.BUDGET`.

  Args:
    trained: its arrays.
    splits: {name: `rows_lib.Rows`}.
    epochs: the records of its validations; none of a prompt that comes from elsewhere.
  """
  tuning = {
    'tokens': float(kinds.length(trained)),
    'parameters': sum(np.size(x) for x in jax.tree.leaves(trained)),
  }
  if epochs:
    tuning |= {
      'rows': len(splits['train'].rows),
      'validation_rows': len(splits['validation'].rows),
      'steps': epochs[-1]['step'],
      'seconds': sum(record['seconds'] for record in epochs),
    }
  return tuning


def nearest(model, trained, initial=None):
  """Returns for each virtual token what it is near to, as results.json has it.

  There is none in a prompt of keys and values.

  Args:
    model: `setup.Model`.
    trained: a prompt's arrays, folded.
    initial: what they were before training, if that is known.
  """
  if 'embeddings' not in trained:
    return []
  soft_prompt = trained['embeddings']
  ids, cosines, norms = setup.of_table(
    model, lambda table: prompt.nearest_tokens(soft_prompt, table, _NEAREST)
  )
  found = [
    {
      'tokens': [evaluate.piece(model.template.tokenizer, i) for i in token_ids],
      'cosines': token_cosines.tolist(),
      'relative_norm': float(norm),
    }
    for token_ids, token_cosines, norm in zip(ids, cosines, norms, strict=True)
  ]
  if initial is not None:
    change = soft_prompt - initial['embeddings']
    drifts = setup.of_table(model, functools.partial(prompt.relative_norms, change))
    for near, drift in zip(found, drifts, strict=True):
      near['drift'] = float(drift)
  return found


def _data_summary(experiment):
  """Returns for each split its rows, how many were cut, and the share of padding."""
  config, evaluator, summary = experiment.config, experiment.evaluator, {}
  step_rows = config.train.batch_size * config.train.accumulate
  for split, rows in experiment.splits.items():
    batches = loader.Loader(
      rows.rows,
      evaluator.layout,
      batch_size=step_rows if split == 'train' else evaluator.batch_size,
      pad_id=evaluator.template.end_id,
      apart=config.prompt.position == 'suffix',
    )
    summary[split] = {
      'rows': len(rows.rows),
      'sources_cut': rows.sources_cut,
      'targets_cut': rows.targets_cut,
      'skipped': rows.skipped,
      'padding': batches.padding,
    }
  return summary


def compare(experiment, trained, epochs, workdir, initial=None):
  """Measures the arms on the test rows; writes predictions and results.json.

  Args:
    experiment: `setup.Experiment`.
    trained: the best prompt's arrays, see `kinds`.
    epochs: the records of the validations.
    workdir: an epath.
    initial: what they were before them, if that is known.

  Returns:
    The content of results.json.
  """
  measured = measure_written(experiment)
  measured['soft'] = measure_soft(experiment, trained, epochs)
  return leave(experiment, measured, trained, epochs, workdir, initial)


def leave(experiment, measured, trained, epochs, workdir, initial):
  """Writes what has been measured, and returns it, as `compare` does.

  Args:
    measured: {arm: `results.Measured`}; the others are those of `compare`.
  """
  config, rows = experiment.config, experiment.splits['test'].rows
  best = epochs_lib.best(epochs)
  measured = {name: measured[name] for name in config.arms}
  found = {
    'task': config.task,
    'model': config.model.path,
    'model_parameters': sum(x.size for x in jax.tree.leaves(experiment.params)),
    **results.setting(config, experiment.fingerprints),
    'signatures': metrics.signatures(
      experiment.task.metrics, [row.references for row in rows]
    ),
    'data': _data_summary(experiment),
    'prompt': {
      'name': config.prompt.name,
      'kind': config.prompt.kind,
      'length': config.prompt.length,
      'init': config.prompt.init,
      'position': config.prompt.position,
      'parameters': measured['soft'].tuning['parameters'],
    },
    'nearest_tokens': nearest(experiment.model, trained, initial),
    'epochs': epochs,
    'best_epoch': best['epoch'] if best else 0,
    **results.compared(measured, config.seed),
  }
  with processes.together():
    for name, own in measured.items():
      lines = results.predictions(own, rows)
      workdir_lib.write_jsonl(workdir / 'predictions' / f'{name}.jsonl', lines)
    wordings = [
      {'arm': name, **dataclasses.asdict(own.wordings[0])}
      for name, own in measured.items()
      if own.wordings
    ]
    workdir_lib.write_jsonl(workdir / records.WORDINGS, wordings)
    workdir_lib.write_json(workdir / 'results.json', found)
  return found
