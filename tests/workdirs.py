"""Workdirs of runs that never ran: all the files that the pages read, any size."""

import json

import numpy as np

from jaxprompt import config as config_lib
from jaxprompt.runs import results as results_lib
from jaxprompt.tasks import metrics
from jaxprompt.tasks import tasks

LOSSES = {'none': 3.4, 'hard': 2.9, 'soft': 2.1}
RANGES = {'rouge1': 1, 'rouge2': 1, 'rougeL': 1}  # of metrics; of the others 100


def _arm(losses, metric_names, arm, width, examples):
  loss = losses[arm]
  quality = {
    name: RANGES.get(name, 100) * max(0.02, 0.9 - loss / 4 - 0.05 * i)
    for i, name in enumerate(metric_names)
  }
  values = {'loss': loss, **quality}
  return {
    **values,
    'perplexity': float(np.exp(loss)),
    'examples': examples,
    'ci95': {name: [v * (1 - width), v * (1 + width)] for name, v in values.items()},
  }


def differences(test, width):
  """Returns `differences` of results.json for arms of given figures.

  Args:
    test: as in results.json.
    width: of half an interval.
  """
  names = list(test)
  return [
    {
      'figure': figure,
      'arm': arm,
      'other': other,
      'difference': (lead := test[arm][figure] - test[other][figure]),
      'ci95': [lead - width, lead + width],
      'better': None if abs(lead) <= width else (lead < 0) == (figure == 'loss'),
    }
    for figure in test['soft']['ci95']
    for i, arm in enumerate(names)
    for other in names[:i]
  ]


def _tuning(arm, length):
  """What an arm learned from; `best_hard` has tried two texts."""
  budget = dict.fromkeys(results_lib.BUDGET, 0)
  own = {
    'none': {'text': '{source}'},
    'hard': {'text': 'Answer the question', 'texts': 1, 'tokens': 5.0},
    'few_shot': {'text': '4 training rows', 'rows': 4, 'tokens': 412.3},
    'chat': {'text': '<user>{source}<model>', 'texts': 1, 'tokens': 17.0},
    'best_hard': {
      'text': '{source} <TL;DR>',
      'texts': 2,
      'tokens': 3.0,
      'validation_rows': 30,
      'seconds': 2.5,
      'tried': [
        {'text': 'Answer', 'validation_loss': 3.25},
        {'text': '{source} <TL;DR>', 'validation_loss': 2.75},
      ],
    },
    'soft': {
      'rows': 120,
      'validation_rows': 30,
      'steps': 100,
      'parameters': length * 768,
      'tokens': float(length),
      'seconds': 126.0,
    },
  }
  return {**budget, **own[arm]}


def _metrics(epochs, steps):
  """Lines as the writer writes them: a falling loss, and validation at epochs' ends."""
  rng = np.random.default_rng(0)
  for step in range(1, epochs * steps + 1):
    epoch = (step - 1) // steps + 1
    loss = 2.0 + 2.5 * np.exp(-step / steps) + rng.normal(0, 0.08)
    yield {
      'step': step,
      'epoch': epoch,
      'train_loss': loss,
      'learning_rate': 0.05,
      'grad_norm': 0.4 * np.exp(-step / steps) + abs(rng.normal(0, 0.03)),
      'prompt_drift': 9 * (1 - np.exp(-step / steps)),
      'tokens_per_second': 9000.0,
    }
    if step % steps == 0:
      yield {
        'step': step,
        'epoch': epoch,
        'epoch_train_loss': loss,
        'validation_loss': 2.2 + 0.1 * abs(epoch - epochs + 1),
        'epoch_seconds': 31.5,
        'epoch_tokens_per_second': 9000.0,
      }


def _rows(count, arm, loss, metric_names):
  rng = np.random.default_rng(len(arm))
  for i in range(count):
    scores = {
      name: float(rng.uniform(0, RANGES.get(name, 100))) for name in metric_names
    }
    yield {
      'id': f'row-{i}',
      'source': f'Source {i} tells of engine number {i}. ' + 'Steam drove it. ' * 12,
      'target': f'engine {i}',
      'prediction': f'{arm} says engine {i}' + ' and steam' * (len(arm) % 3),
      'references': [f'engine {i}'],
      'scores': {'loss': loss + float(rng.normal(0, 0.5)), **scores},
    }


def write_run(
  folder,
  task='qa',
  *,
  model='gpt2',
  parameters=124_439_808,
  length=20,
  seed=0,
  losses=None,
  width=0.02,
  rows=30,
  epochs=4,
  steps=25,
  finished=True,
  edit=None,
):
  """Writes a run's workdir and returns the folder.

  Args:
    folder: where.
    task, model, length, seed: of its config.
    parameters: of the model.
    losses: {arm: test loss}.
    width: of half an interval, as a share of the figure.
    rows: of the test split.
    epochs, steps: trained, and optimiser steps of each.
    finished: whether it has predictions and results.json.
    edit: changes the list of an arm's prediction rows in place, or None.
  """
  losses = losses or LOSSES
  (folder / 'predictions').mkdir(parents=True)
  config = config_lib.default(task)
  config.model.path, config.prompt.length, config.seed = model, length, seed
  config.train.epochs, config.data.path = epochs, 'data'
  config.arms = tuple(losses)
  config = config_lib.single_run(config).to_dict()
  stored = {'config': config, 'versions': {'jax': '0.7'}, 'devices': ['cpu:0 cpu']}
  (folder / 'config.json').write_text(json.dumps(stored))
  lines = list(_metrics(epochs, steps))
  (folder / 'metrics.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in lines))
  if not finished:
    return folder
  names = tasks.TASKS[task].metrics
  for arm, loss in losses.items():
    predictions = list(_rows(rows, arm, loss, names))
    if edit:
      edit(predictions)
    text = ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in predictions)
    (folder / 'predictions' / f'{arm}.jsonl').write_text(text)
  cut = {'sources_cut': 3, 'targets_cut': 1, 'padding': 0.123}
  results = {
    'task': task,
    'model': model,
    'model_parameters': parameters,
    **stored,
    'signatures': metrics.signatures(names, [['a']]),
    'data': {split: {'rows': rows, **cut} for split in ('train', 'validation', 'test')},
    'prompt': {
      'name': config['prompt']['name'],
      'length': length,
      'init': 'text',
      'position': 'prefix',
      'parameters': length * 768,
    },
    'epochs': [],
    'best_epoch': epochs - 1,
    'test': {arm: _arm(losses, names, arm, width, rows) for arm in losses},
    'tuning': {arm: _tuning(arm, length) for arm in losses},
  }
  results['differences'] = differences(results['test'], width)
  (folder / 'results.json').write_text(json.dumps(results))
  return folder
