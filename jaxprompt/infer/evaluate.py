"""Evaluation of an arm over a split: the rows' losses, their texts, the scores."""

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable

import jax
import numpy as np

from jaxprompt import errors
from jaxprompt.data import buckets
from jaxprompt.data import collate
from jaxprompt.data import loader
from jaxprompt.devices import devices
from jaxprompt.tasks import metrics


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """The compiled programs and the settings that all arms and splits share.

  Attributes:
    task: `tasks.Task`.
    tokenizer: turns output ids into text.
    layout: of the devices.
    params: the frozen weights, placed.
    row_losses: spread (params, Placement, Batch) -> nats [B], tokens [B].
    generate: spread (params, Placement, (ids [B, T], mask [B, T])) -> ids [B, new].
    batch_size: B, over all devices.
    progress: wraps the list of batches, given a label, to show how far it is.
  """

  task: object
  tokenizer: object
  layout: devices.Layout
  params: dict
  row_losses: Callable
  generate: Callable
  batch_size: int
  progress: Callable[[list, str], Iterable]


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What was measured of E rows: statistics by metric, `loss` first, and the texts."""

  statistics: dict[str, metrics.Statistics]
  predictions: list[str]

  def figures(self):
    return {name: metrics.figure(s) for name, s in self.statistics.items()}

  def intervals(self, seed):
    return {name: metrics.interval(s, seed) for name, s in self.statistics.items()}

  def row_figures(self):
    """Returns for each row what every figure would be if it were the only one."""
    figures = [metrics.row_figures(s) for s in self.statistics.values()]
    return [
      dict(zip(self.statistics, row, strict=True)) for row in zip(*figures, strict=True)
    ]


def evaluate(evaluator, arm, rows, label):
  """Measures an arm's loss and generated text.

  Args:
    evaluator: `Evaluator`.
    arm: a `placement.Placement`.
    rows: E `rows_lib.Row`s.
    label: what progress is shown as.

  Returns:
    `Evaluation`.
  """
  measured = loss(evaluator, arm, rows, label)
  found = generate(evaluator, arm, rows, label)
  predictions = [text(evaluator.tokenizer, ids) for ids in found]
  targets = [row.target_ids[:-1].tolist() for row in rows]  # without the end of text
  scores = {
    **evaluator.task.score(predictions, [row.references for row in rows]),
    **metrics.token_match(found, targets),
  }
  return Evaluation(
    {
      'loss': measured,
      **{name: scores[name] for name in evaluator.task.metrics},
    },
    predictions,
  )


def loss(evaluator, arm, rows, label):
  """Measures an arm's loss alone, `metrics.Statistics`; arguments as of `evaluate`.

  Raises:
    UserError: if it is not finite.
  """
  nats, counts = losses(evaluator, arm, rows, label)
  if not np.isfinite(nats).all():
    raise errors.UserError(
      f'the loss of {label} is {np.sum(nats)}: the model computes numbers that are not '
      'finite; lower train.learning_rate if it is trained, or use model.dtype float32'
    )
  return metrics.ratio(nats, counts)


def losses(evaluator, arm, rows, label):
  """Returns each row's nats and number of target tokens, two arrays [E]."""
  batches = loader.Loader(
    rows,
    evaluator.layout,
    batch_size=evaluator.batch_size,
    pad_id=evaluator.tokenizer.eos_token_id,
    apart=arm.splits_rows,
  )
  nats, counts = np.zeros(len(rows)), np.zeros(len(rows))
  for indices, shape in evaluator.progress(batches.in_order(), f'{label} loss'):
    batch, _ = batches.load(indices, shape)
    result = jax.device_get(evaluator.row_losses(evaluator.params, arm, batch))
    nats[indices], counts[indices] = (x[: len(indices)] for x in result)
  return nats, counts


def generate(evaluator, arm, rows, label):
  """Returns each row's output ids, up to and without the end of text."""
  sources = [row.source_ids for row in rows]
  shapes = buckets.shapes(_alone(sources), evaluator.batch_size)

  def run(_, tokens):
    return evaluator.generate(
      evaluator.params, arm, evaluator.layout.place_rows(tokens)
    )

  return outputs(evaluator, run, sources, shapes, label)


def _alone(sources):
  """Returns the bucket sizes of sources without a target, [E, 2]."""
  return [(len(ids), 0) for ids in sources]


def outputs(evaluator, run, sources, shapes, label):
  """Returns the output ids of each source, up to and without the end of text.

  Args:
    evaluator: see `evaluate`.
    run: (which sources are this process's, (their ids, mask), each [own, T]) -> the
      ids generated for the whole batch, [B, new]. Rows of padding may come last.
    sources: token ids of E sources, each with its newline.
    shapes: the shapes (S, 0) to pad them to, S ascending; the last holds all.
    label: what progress is shown as.
  """
  batch_size, layout = evaluator.batch_size, evaluator.layout
  eos_id = evaluator.tokenizer.eos_token_id
  batches = buckets.plan(_alone(sources), shapes, batch_size)
  found = [[] for _ in sources]
  for indices, (length, _) in evaluator.progress(batches, f'{label} text'):
    own = layout.share(indices, batch_size)
    chosen = [sources[i] for i in own]
    tokens = collate.pad(chosen, length, len(layout.own(batch_size)), eos_id)
    ids = jax.device_get(run(own, tokens))
    for i, output in zip(indices, ids, strict=False):  # without the padding rows
      ended = np.flatnonzero(output == eos_id)
      found[i] = output[: ended[0] if len(ended) else None].tolist()
  return found


def text(tokenizer, ids):
  """Returns the text of a row's output ids."""
  # A cut-off character decodes to U+FFFD; a space that the model wrote stays as it is.
  return tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip()


def piece(tokenizer, token_id):
  """Returns the text of one token, its space in front included."""
  # After another one: SentencePiece drops the space that a text begins with.
  once, twice = (
    tokenizer.decode([token_id] * times, clean_up_tokenization_spaces=False)
    for times in (1, 2)
  )
  return twice[len(once) :]
