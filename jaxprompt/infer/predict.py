"""Prediction: sources in, JSON lines out, in order and in constant memory.

One frozen model serves rows of many prompts in the same batch. Where several prompts
answer a source together, it has a row of each, next to each other.
"""

import functools
import itertools
import reprlib
import zlib
from typing import NamedTuple

import jax
import numpy as np

from jaxprompt import errors
from jaxprompt.data import sources
from jaxprompt.devices import devices
from jaxprompt.infer import decode
from jaxprompt.infer import evaluate
from jaxprompt.infer import labels
from jaxprompt.prompts import arms
from jaxprompt.prompts import kinds
from jaxprompt.prompts import placement
from jaxprompt.tasks import columns
from jaxprompt.tasks import tasks

_BATCHES_AT_ONCE = 16  # rows of like length are sought among so many batches
# Padded source lengths: fixed, so that no new row compiles a new program for long. On a
# CPU 16, 24, 32, 48 and so on; elsewhere compiling is slow, running fast: fewer.
_LENGTHS = {'cpu': tuple(n for k in range(4, 24) for n in (2**k, 3 * 2 ** (k - 1)))}
_ON_ACCELERATORS = tuple(2**k for k in range(8, 24))


class Settings(NamedTuple):
  """What all rows of a batch have in common, of the compiled program."""

  labels: tuple[str, ...] = ()  # to be ranked; () = text is generated
  lead: str = ''  # that a label begins with
  empty: tuple[int, ...] = ()  # ids of a source without content
  calibration: str = 'none'  # of labels
  members: int = 1  # prompts that answer a source together
  beams: int = 1
  max_new_tokens: int = 0


class _Request(NamedTuple):
  """A row to be answered."""

  answer: dict  # gets the prediction
  which: int  # of the prompts
  ids: list[int]  # of the source and its newline


def predict(experiment, prompts, input_path, output, *, sampling, seed):
  """Writes {"id", "prediction"} for every row of the input, in its order.

  Of a classification it has {"scores": {label: its probability}} too. A row that cannot
  be used gets {"id", "error"}.

  Args:
    experiment: `setup.Experiment`; needs no splits.
    prompts: {name: `trained.TrainedPrompt`}. A row's column `prompt` names its own;
      '' is that of rows that name none.
    input_path: see `sources.stream`; rows in the hub's columns, targets not needed.
    output: from `output.open_output`; rows that it has are not answered again.
    sampling: `decode.Sampling`, or None for greedy generation or beams, as the
      prompt's config says.
    seed: of the sampling; a row's draws depend on it and on the row's id alone.
  """
  answerer = _Answerer(experiment, prompts, sampling, seed)
  at_once = _BATCHES_AT_ONCE * experiment.evaluator.batch_size
  rows = enumerate(sources.stream(input_path))
  while window := list(itertools.islice(rows, at_once)):
    window = window[output.skip(len(window)) :]
    output.write(answerer.answer([answerer.choose_for(i, row) for i, row in window]))


def answers(experiment, prompts, asked, *, sampling, seed):
  """Returns the answers to some rows, as `predict` writes them.

  Args:
    experiment, sampling, seed: as of `predict`.
    prompts: `trained.TrainedPrompt`s.
    asked: of each row, which of the prompts is its own, and the row, a dict or a source
      as one text.

  Raises:
    UserError: for a row that cannot be used.
  """
  _check_draws(prompts, sampling)
  answerer = _Answerer(experiment, dict(enumerate(prompts)), sampling, seed)
  requests = []
  for i, (which, row) in enumerate(asked):
    try:
      requests.append(answerer.request(i, which, row))
    except errors.RowError as e:
      raise errors.UserError(f'source {i}: {e}') from e
  return answerer.answer(requests)


def made_of(experiment, prompts, input_path, *, sampling, seed):
  """Returns what decides the predictions, a nested dict; arguments as of `predict`.

  Raises:
    UserError: if nothing is drawn that is asked to be.
  """
  _check_draws(prompts.values(), sampling)
  return {
    'input': None if input_path == '-' else sources.digest(input_path),
    'model': experiment.fingerprints,
    'end_ids': list(experiment.lm.end_ids),
    'dtype': experiment.model.dtype,
    'precision': experiment.model.precision,
    'prompt': {
      name: {
        'content': [kinds.digest(each.arrays) for each in x.members],
        'position': [each.position for each in x.members],
        'task': x.task.name,
        'source': x.task.source,
        'cut': x.task.cut,
        'labels': list(x.task.labels),
        'calibration': x.calibration,
        'max_source_tokens': x.max_source_tokens,
        'max_new_tokens': x.max_new_tokens,
        'beams': x.beams,
      }
      for name, x in prompts.items()
    },
    'sampling': sampling and sampling._asdict(),
    'seed': seed if sampling else 0,  # greedy answers have none
  }


def _check_draws(prompts, sampling):
  if sampling and all(x.task.labels for x in prompts):
    raise errors.UserError(
      '--temperature is of text that is generated, and labels are ranked; leave it out'
    )


class _Answerer:
  """Answers rows under their prompts."""

  def __init__(self, experiment, prompts, sampling, seed):
    self._experiment, self._sampling, self._seed = experiment, sampling, seed
    self._names, self._prompts = list(prompts), list(prompts.values())
    members = [each for x in self._prompts for each in x.members]
    self._placements = placement.stack([each.placement for each in members])
    counts = [len(x.members) for x in self._prompts]
    # Of each prompt, the numbers of its members' placements.
    self._members = np.split(np.arange(len(members)), np.cumsum(counts)[:-1])
    longest = max(x.max_source_tokens for x in self._prompts)
    longest += experiment.template.frame_tokens
    lengths = _LENGTHS.get(experiment.layout.platform, _ON_ACCELERATORS)
    shapes = [length for length in lengths if length < longest] + [longest]
    self._shapes = [(length, 0) for length in shapes]

  def answer(self, requests):
    """Returns the answers to `_Request`s."""
    groups = {}
    for request in requests:
      if request.ids:
        groups.setdefault(self._settings(request), []).append(request)
    for settings, own in groups.items():
      found = evaluate.in_batches(
        self._experiment.evaluator.shared(settings.members),
        functools.partial(self._run, settings, own),
        [request.ids for request in own],
        self._shapes_for(own),
        'predicting',
      )
      for request, answer in zip(own, self._answers(settings, found), strict=True):
        request.answer.update(answer)
    return [request.answer for request in requests]

  def _shapes_for(self, requests):
    """Returns the shapes to pad sources to; the words around one may make it longer."""
    longest = max(len(request.ids) for request in requests)
    room, _ = self._shapes[-1]
    return self._shapes if longest <= room else [*self._shapes, (longest, 0)]

  def _answers(self, settings, found):
    """Returns what is said of each row, by the outputs of its program."""
    if settings.labels:
      return [labels.answer(settings.labels, scores) for scores in found]
    template = self._experiment.template
    return [
      {'prediction': evaluate.text(template.tokenizer, ids)}
      for ids in evaluate.until_end(found, template.end_ids)
    ]

  def choose_for(self, index, row):
    """Returns the `_Request` of a row, which may be a `RowError`, under its prompt."""
    if isinstance(row, errors.RowError):
      answer = {'id': tasks.row_id(row.row, index), 'error': str(row)}
      return _Request(answer, 0, [])
    try:
      return self.request(index, self._choose(row), row)
    except errors.RowError as e:
      return _Request({'id': tasks.row_id(row, index), 'error': str(e)}, 0, [])

  def request(self, index, which, row):
    """Returns the `_Request` of a row, or of a source as one text.

    Raises:
      RowError: if it cannot be used.
    """
    own, template = self._prompts[which], self._experiment.template
    if isinstance(row, str):
      name, parts = str(index), own.task.split(columns.clean(row).strip())
    elif isinstance(row, dict):
      name, parts = tasks.row_id(row, index), own.task.parse_source(row)
    else:
      raise errors.RowError(f'is {reprlib.repr(row)}, expected a text or a dict')
    before, text, after = parts
    text, ids = template.source(before, text, after, own.max_source_tokens)
    if own.wording is not None:
      ids = arms.source_ids(own.wording, template, before + text + after, ids)
    return _Request({'id': name}, which, ids)

  def _choose(self, row):
    """Returns which prompt is a row's; raises `RowError` if that cannot be said."""
    named = [name for name in self._names if name]
    if not named:  # the column may then be about something else
      return 0
    name = row.get('prompt') or ('' if '' in self._names else None)
    if name is None and len(named) == 1:
      name = named[0]
    if name not in self._names:
      found = 'is missing' if name is None else f'is {name!r:.80}'
      raise errors.RowError(
        f'the column prompt {found}; expected one of {", ".join(named)}'
      )
    return self._names.index(name)

  def _settings(self, request):
    own = self._prompts[request.which]
    members = len(own.members)
    if own.task.labels:
      wording = own.wording or arms.BARE
      template = self._experiment.template
      empty = labels.empty_source(own.calibration, wording, template)
      given = (own.task.labels, wording.target_lead, empty)
      return Settings(*given, own.calibration, members)
    if own.beams > 1 and not self._sampling:
      return Settings(
        members=members, beams=own.beams, max_new_tokens=own.max_new_tokens
      )
    longest = max(x.max_new_tokens for x in self._prompts)
    return Settings(members=members, max_new_tokens=longest)

  def _run(self, settings, requests, indices, tokens):
    """Answers the requests of some indices; see `run` of `evaluate.in_batches`."""
    size, experiment = len(tokens[0]), self._experiment
    which = np.zeros((size, settings.members), np.int32)
    limits, seeds = np.zeros(size, np.int32), np.zeros(size, np.uint32)
    for i, request in enumerate(requests[i] for i in indices):
      which[i] = self._members[request.which]
      limits[i] = self._prompts[request.which].max_new_tokens
      seeds[i] = zlib.crc32(f'{self._seed} {request.answer["id"]}'.encode())
    lm, template, layout = experiment.lm, experiment.template, experiment.layout
    answer = program(lm, template, layout, settings, self._sampling)
    rows = layout.place_rows((which, limits, seeds, *tokens))
    return answer(experiment.params, self._placements, rows)


@functools.lru_cache(maxsize=16)  # one call after another compiles nothing new
def program(lm, template, layout, settings, sampling):
  """Returns the compiled (params, `Placement` of K, rows) -> outputs [B, ...].

  Rows are (which M of the K [B, M], limits, seeds, ids, mask), see `decode.generate`.
  """
  if settings.labels:
    answer = _classify(lm, template, settings)
  else:
    answer = _generate(lm, settings, sampling)

  def run(params, placements, rows):
    which, *rows = rows
    own = jax.tree.map(lambda x: x[which.reshape(-1)], placements)  # of B * M rows
    return answer(params, own, *rows)

  return layout.gather(run)


def _classify(lm, template, settings):
  score = labels.program(lm, settings.calibration, settings.members)
  own = labels.tokenise(template, settings.labels, settings.empty, settings.lead)

  def answer(params, placement, limits, seeds, ids, mask):
    del limits, seeds
    return score(params, (placement, own.arrays), (ids, mask))

  return answer


def _generate(lm, settings, sampling):
  options = decode.Options(
    max_new_tokens=settings.max_new_tokens,
    end_ids=lm.end_ids,
    beams=settings.beams,
    members=settings.members,
    sampling=sampling,
    axis_name=devices.DATA,
  )

  def answer(params, placement, limits, seeds, ids, mask):
    return decode.generate(lm, params, placement, ids, mask, options, limits, seeds)

  return answer
