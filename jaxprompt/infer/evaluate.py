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
from jaxprompt.infer import labels as labels_lib
from jaxprompt.prompts import arms
from jaxprompt.tasks import metrics
from jaxprompt.tasks import statistics as statistics_lib


class NotFiniteError(errors.UserError):
  """A loss is not finite."""


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """The compiled programs and the settings that all arms and splits share.

  Attributes:
    task: `tasks.Task`.
    template: `template.Template`.
    layout: of the devices.
    params: the frozen weights, placed.
    row_losses: spread (params, Placement, Batch) -> nats [B], tokens [B].
    generate: spread (params, Placement, (ids [B, T], mask [B, T])) -> ids [B, new].
    score: of a classification, spread (params, (Placement, labels' arrays), the same)
      -> the labels' log-likelihoods [B, M, L].
    calibration: of labels, one of `labels.CALIBRATIONS`.
    batch_size: B, over all devices.
    progress: wraps the list of batches, given a title, to show how far it is.
  """

  task: object
  template: object
  layout: devices.Layout
  params: dict
  row_losses: Callable
  generate: Callable
  score: Callable
  calibration: str
  batch_size: int
  progress: Callable[[list, str], Iterable]

  def shared(self, members):
    """Returns one whose batches hold as many rows, M of them for each source."""
    sources = self.layout.round_up(max(1, self.batch_size // members))
    return dataclasses.replace(self, batch_size=sources)


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What was measured of E rows.

  Attributes:
    statistics: by metric, `loss` first.
    predictions: E texts.
    labels: `labels.Labels` of a classification; None of others, as what follows.
    scores: their log-likelihoods, [E, M, L]; M is 1 but of an ensemble of M prompts.
    confusion: how often each was predicted for each gold one, in all draws, [L, L].
  """

  statistics: dict[str, statistics_lib.Statistics]
  predictions: list[str]
  labels: labels_lib.Labels | None = None
  scores: np.ndarray | None = None
  confusion: np.ndarray | None = None

  def figures(self):
    return {name: statistics_lib.figure(s) for name, s in self.statistics.items()}

  def intervals(self, seed):
    return {
      name: statistics_lib.interval(s, seed) for name, s in self.statistics.items()
    }

  def row_figures(self):
    """Returns for each row what every figure would be if it were the only one."""
    figures = [statistics_lib.row_figures(s) for s in self.statistics.values()]
    return [
      dict(zip(self.statistics, row, strict=True)) for row in zip(*figures, strict=True)
    ]

  def described_labels(self):
    """Returns for each row what its predictions' line says of the labels, a dict."""
    if self.labels is None:
      return [{} for _ in self.predictions]
    return [
      {'labels': labels_lib.described(self.labels, scores)} for scores in self.scores
    ]


def averaged(draws):
  """Returns one `Evaluation` of the same rows measured several times.

  Args:
    draws: the `Evaluation` of each time, whose texts are those of the first.
  """
  statistics = {
    name: statistics_lib.averaged([each.statistics[name] for each in draws])
    for name in draws[0].statistics
  }
  confusion = draws[0].confusion
  if confusion is not None:
    confusion = sum(each.confusion for each in draws)
  return dataclasses.replace(draws[0], statistics=statistics, confusion=confusion)


def evaluate(evaluator, arm, rows, title, wording=arms.BARE):
  """Measures an arm's loss, and its generated text or the likeliest label.

  Args:
    evaluator: `Evaluator`.
    arm: a `placement.Placement`.
    rows: `rows_lib.Table` of E rows.
    title: what progress is shown as.
    wording: `arms.Wording` of the rows; what stands in front of them is the arm's.

  Returns:
    `Evaluation`.
  """
  measured = loss(evaluator, arm, rows, title)
  labels, scores, confusion = None, None, None
  if evaluator.task.labels:
    empty = labels_lib.empty_source(evaluator.calibration, wording, evaluator.template)
    labels = labels_lib.tokenise(
      evaluator.template, evaluator.task.labels, empty, wording.target_lead
    )
    scores = label_scores(evaluator, arm, labels, rows, title)  # [E, M, L]
    best = [labels_lib.choice(own) for own in scores]
    predictions = [labels.texts[i] for i in best]
    found = [labels.tokens(i) for i in best]
  else:
    found = generate(evaluator, arm, rows, title)
    predictions = [text(evaluator.template.tokenizer, ids) for ids in found]
  outputs = metrics.Outputs(
    predictions=predictions,
    references=[row.references for row in rows],
    output_ids=found,
    target_ids=[row.target_ids[:-1].tolist() for row in rows],  # without the end
    labels=evaluator.task.labels,
  )
  if labels:
    _, confusion = metrics.confusion(outputs)
  return Evaluation(
    {
      metrics.LOSS: measured,
      **evaluator.task.measure(outputs),
    },
    predictions,
    labels,
    scores,
    confusion,
  )


def loss(evaluator, arm, rows, title):
  """Measures an arm's loss alone, `statistics.Statistics`; arguments as of `evaluate`.

  Raises:
    NotFiniteError: if it is not finite.
  """
  nats, counts = losses(evaluator, arm, rows, title)
  check_finite(nats, title)
  return statistics_lib.ratio(nats, counts)


def check_finite(nats, title):
  """Raises `NotFiniteError` if one of the rows' losses, [E], is not finite."""
  if not np.isfinite(nats).all():
    raise NotFiniteError(
      f'the loss of {title} is {np.sum(nats)}: the model computes numbers that are not '
      'finite; lower train.learning_rate if it is trained, or use model.dtype float32'
    )


def losses(evaluator, arm, rows, title):
  """Returns each row's nats and number of target tokens, two arrays [E]."""
  batches = loader.Loader(
    rows,
    evaluator.layout,
    batch_size=evaluator.batch_size,
    pad_id=evaluator.template.end_id,
    apart=arm.splits_rows,
  )
  nats, counts = np.zeros(len(rows)), np.zeros(len(rows))
  for indices, shape in evaluator.progress(batches.in_order(), f'{title} loss'):
    batch, _ = batches.load(indices, shape)
    result = jax.device_get(evaluator.row_losses(evaluator.params, arm, batch))
    nats[indices], counts[indices] = (x[: len(indices)] for x in result)
  return nats, counts


def generate(evaluator, arm, rows, title):
  """Returns each row's output ids, up to and without the end of text."""
  return until_end(
    _by_source(evaluator, evaluator.generate, arm, rows, f'{title} text'),
    evaluator.template.end_ids,
  )


def label_scores(evaluator, arm, labels, rows, title):
  """Returns the log-likelihoods of `labels.Labels` for each row, [E, M, L]."""
  asked = arm, labels.arrays
  return np.stack(
    _by_source(evaluator, evaluator.score, asked, rows, f'{title} labels')
  )


def _by_source(evaluator, program, arm, rows, title):
  """Returns what a spread program of (params, arm, rows) gives for each source."""
  sources = [row.source_ids for row in rows]
  shapes = buckets.shapes(
    _alone(sources), evaluator.batch_size, evaluator.layout.batches_per_shape
  )

  def run(_, tokens):
    return program(evaluator.params, arm, evaluator.layout.place_rows(tokens))

  return in_batches(evaluator, run, sources, shapes, title)


def _alone(sources):
  """Returns the bucket sizes of sources without a target, [E, 2]."""
  return [(len(ids), 0) for ids in sources]


def in_batches(evaluator, run, sources, shapes, title):
  """Returns what a function of batches gives for each of E sources.

  Args:
    evaluator: see `evaluate`.
    run: (which sources are this process's, (their ids, mask), each [own, T]) -> what
      is found for the whole batch, [B, ...]. Rows of padding may come last.
    sources: token ids of E sources, each with its newline.
    shapes: the shapes (S, 0) to pad them to, S ascending; the last holds all.
    title: what progress is shown as.
  """
  batch_size, layout = evaluator.batch_size, evaluator.layout
  batches = buckets.plan(_alone(sources), shapes, batch_size)
  found = [None] * len(sources)
  for indices, (length, _) in evaluator.progress(batches, title):
    own = layout.share(indices, batch_size)
    chosen = [sources[i] for i in own]
    size = len(layout.own(batch_size))
    tokens = collate.pad(chosen, length, size, evaluator.template.end_id)
    outputs = jax.device_get(run(own, tokens))
    for i, output in zip(indices, outputs, strict=False):  # without the padding rows
      found[i] = output
  return found


def until_end(outputs, end_ids):
  """Returns ids of outputs [new] up to and without the first that ends a text."""
  ends = [np.flatnonzero(np.isin(output, end_ids)) for output in outputs]
  return [
    output[: end[0] if len(end) else None].tolist()
    for output, end in zip(outputs, ends, strict=True)
  ]


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
