"""Prediction: sources in, JSON lines out, in order and in constant memory."""

import itertools
import json
import logging
import pathlib
import sys

from jaxprompt import data
from jaxprompt import errors
from jaxprompt import evaluate
from jaxprompt import sources
from jaxprompt import tasks

log = logging.getLogger(__name__)

_BATCHES_AT_ONCE = 16  # rows of like length are sought among so many batches
# Padded source lengths: fixed, so that no new row compiles a new program for long.
_LENGTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)


def predict(experiment, soft_prompt, input_path, output_path):
  """Writes {"id", "prediction"} for every row of the input, in its order.

  A row that cannot be used gets {"id", "error"}. An output file that is there already
  is continued after its last whole line.

  Args:
    experiment: `experiment.Experiment`; needs no splits.
    soft_prompt: [P, H].
    input_path: see `sources.stream`; rows in the hub's columns, targets not needed.
    output_path: a JSONL file, or '-' for standard output.

  Returns:
    The number of rows written, and how many of them are errors.
  """
  config = experiment.config
  arm = evaluate.Arm(soft_prompt, config.prompt.position)
  longest = config.data.max_source_tokens + 1  # with the newline
  shapes = [(length, 0) for length in _LENGTHS if length < longest] + [(longest, 0)]
  at_once = _BATCHES_AT_ONCE * config.eval.batch_size
  rows = enumerate(sources.stream(input_path))
  written = failed = 0
  with _Output(output_path) as output:
    while window := list(itertools.islice(rows, at_once)):
      window = window[output.skip(len(window)) :]
      answers = [_encode(experiment, index, *row) for index, row in window]
      good = [answer for answer in answers if 'ids' in answer]
      found = evaluate.outputs(
        experiment.evaluator, arm, [a.pop('ids') for a in good], shapes, 'predicting'
      )
      for answer, ids in zip(good, found, strict=True):
        answer['prediction'] = evaluate.text(experiment.tokenizer, ids)
      output.write(answers)
      written += len(answers)
      failed += len(answers) - len(good)
  return written, failed


def _encode(experiment, index, row, problem):
  """Returns {"id", "ids"} of a row's source and its newline, or {"id", "error"}."""
  if problem:
    return {'id': str(index), 'error': problem}
  try:
    head, tail = tasks.parse_source(experiment.task, row)
    limit = experiment.config.data.max_source_tokens
    _, ids = data.fit(experiment.tokenizer, head, tail, limit)
  except ValueError as e:
    return {'id': tasks.row_id(row, index), 'error': str(e)}
  newline, _ = data.encode(experiment.tokenizer, '\n')
  return {'id': tasks.row_id(row, index), 'ids': [*ids, *newline]}


class _Output:
  """JSON lines to a file that may have been begun, or to standard output."""

  def __init__(self, path):
    self._path = path

  def __enter__(self):
    self._done = 0
    if self._path == '-':
      self._file = sys.stdout
      return self
    path = pathlib.Path(self._path).expanduser()
    try:
      self._file = path.open('a+', encoding='utf-8')
    except OSError as e:
      raise errors.UserError(
        f'--output {self._path!r} cannot be written ({e.strerror}); expected a file in '
        'a directory of yours'
      ) from e
    self._file.seek(0)
    whole = 0
    while self._file.readline().endswith('\n'):
      self._done += 1
      whole = self._file.tell()
    self._file.truncate(whole)  # the start of a line that was being written
    if self._done:
      log.info('going on after the %d rows that %s has', self._done, path)
    return self

  def __exit__(self, *_):
    if self._file is not sys.stdout:
      self._file.close()

  def skip(self, rows):
    """Returns how many of the next rows have been written before."""
    skipped = min(rows, self._done)
    self._done -= skipped
    return skipped

  def write(self, values):
    for value in values:
      self._file.write(json.dumps(value, ensure_ascii=False) + '\n')
    self._file.flush()
