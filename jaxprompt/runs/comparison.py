"""The comparison: every arm measured on the test rows, and what a run leaves of it."""

import functools

import jax
import numpy as np

from jaxprompt.data import buckets
from jaxprompt.infer import evaluate
from jaxprompt.prompts import kinds
from jaxprompt.prompts import placement
from jaxprompt.prompts import prompt
from jaxprompt.runs import results
from jaxprompt.runs import setup
from jaxprompt.runs import workdir as workdir_lib
from jaxprompt.train import epochs as epochs_lib

_NEAREST = 5  # vocabulary tokens named for each virtual one


def arms(experiment, trained):
  """Returns {arm: `placement.Placement`}; a hard text always stands in front."""
  ids = np.asarray(experiment.template.in_front(experiment.config.hard_prompt))
  embed = experiment.layout.whole(experiment.lm.embed)
  hard = jax.device_get(embed(experiment.params, ids)).astype(np.float32)
  none = np.zeros((0, experiment.lm.spec.width), np.float32)
  return {
    'none': placement.place(none, 'prefix'),
    'hard': placement.place(hard, 'prefix'),
    'soft': kinds.place(trained, experiment.config.prompt.position),
  }


def _read_prompt(experiment, trained, initial):
  """Returns for each virtual token what it is near to, as results.json has it.

  There is none in a prompt of keys and values.
  """
  if 'embeddings' not in trained:
    return []
  soft_prompt = trained['embeddings']
  ids, cosines, norms = setup.of_table(
    experiment, lambda table: prompt.nearest_tokens(soft_prompt, table, _NEAREST)
  )
  found = [
    {
      'tokens': [evaluate.piece(experiment.template.tokenizer, i) for i in token_ids],
      'cosines': token_cosines.tolist(),
      'relative_norm': float(norm),
    }
    for token_ids, token_cosines, norm in zip(ids, cosines, norms, strict=True)
  ]
  if initial is not None:
    change = soft_prompt - initial['embeddings']
    drifts = setup.of_table(
      experiment, functools.partial(prompt.relative_norms, change)
    )
    for near, drift in zip(found, drifts, strict=True):
      near['drift'] = float(drift)
  return found


def _data_summary(experiment):
  """Returns for each split its rows, how many were cut, and the share of padding."""
  config = experiment.config
  step_rows = config.train.batch_size * config.train.accumulate
  apart, summary = config.prompt.position == 'suffix', {}
  for split, rows in experiment.splits.items():
    batch_size = step_rows if split == 'train' else experiment.evaluator.batch_size
    summary[split] = {
      'rows': len(rows.rows),
      'sources_cut': rows.sources_cut,
      'targets_cut': rows.targets_cut,
      'skipped': rows.skipped,
      'padding': buckets.padding(rows.rows, apart, batch_size),
    }
  return summary


def compare(experiment, trained, epochs, workdir, initial=None):
  """Measures the three arms on the test rows; writes predictions and results.json.

  Args:
    experiment: `setup.Experiment`.
    trained: the best prompt's arrays, see `kinds`.
    epochs: the records of the validations.
    workdir: an epath.
    initial: what they were before, if that is known.

  Returns:
    The content of results.json.
  """
  config = experiment.config
  best = epochs_lib.best(epochs)
  rows = experiment.splits['test'].rows
  test = {}
  for name, arm in arms(experiment, trained).items():
    measured = evaluate.evaluate(experiment.evaluator, arm, rows, f'test, {name}')
    test[name] = results.arm(measured, config.seed)
    workdir_lib.write_jsonl(
      workdir / 'predictions' / f'{name}.jsonl',
      [
        {
          'id': row.id,
          'source': row.source,
          'target': row.target,
          'prediction': prediction,
          'references': row.references,
          'scores': scores,
        }
        for row, prediction, scores in zip(
          rows, measured.predictions, measured.row_figures(), strict=True
        )
      ],
    )
  found = {
    'task': config.task,
    'model': config.model.path,
    'model_parameters': sum(x.size for x in jax.tree.leaves(experiment.params)),
    **results.setting(config, experiment.fingerprints),
    'signatures': experiment.task.signatures(),
    'data': _data_summary(experiment),
    'prompt': {
      'name': config.prompt.name,
      'kind': config.prompt.kind,
      'length': config.prompt.length,
      'init': config.prompt.init,
      'position': config.prompt.position,
      'parameters': sum(x.size for x in jax.tree.leaves(trained)),
    },
    'nearest_tokens': _read_prompt(experiment, trained, initial),
    'epochs': epochs,
    'best_epoch': best['epoch'] if best else 0,
    'test': test,
  }
  workdir_lib.write_json(workdir / 'results.json', found)
  return found
