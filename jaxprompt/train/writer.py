"""What a run says while it goes on: metrics.jsonl, TensorBoard, the terminal."""

import json
import logging
import os
import sys
import time

import tensorboardX
import tqdm
from etils import epath

from jaxprompt import errors
from jaxprompt.devices import processes

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0  # of progress, where there is no terminal for a bar


class Writer:
  """Writes scalars to metrics.jsonl, one object a line, and to TensorBoard.

  Of several processes, the first one writes; the others only count the lines.
  """

  def __init__(self, workdir, *, lines, step):
    """Opens the files for a run that goes on after `step`.

    Args:
      workdir: an epath.
      lines: the lines of metrics.jsonl to keep: what the run had written by then. A
        killed run may have written more, which it will write again.
      step: the optimiser steps done.
    """
    self._path = path = workdir / 'metrics.jsonl'
    kept = path.read_text().splitlines(keepends=True)[:lines] if path.exists() else []
    writes = processes.is_first()
    if not writes:
      path = epath.Path(os.devnull)
    path.write_text(''.join(kept))
    self.lines = len(kept)
    remote = '://' in os.fspath(path)
    self._file = _Rewritten(path, kept) if remote else path.open('a')
    self._tensorboard = tensorboardX.SummaryWriter(
      str(workdir / 'tensorboard'),
      purge_step=step + 1 if step else None,
      write_to_disk=writes,
    )

  def write(self, step, scalars):
    """Writes {name: number} of an optimiser step."""
    with self._writing():
      self._file.write(json.dumps({'step': step, **scalars}, allow_nan=False) + '\n')
    self.lines += 1
    for name, value in scalars.items():
      self._tensorboard.add_scalar(name, value, step)

  def flush(self):
    with self._writing():
      self._file.flush()
      self._tensorboard.flush()

  def close(self):
    with self._writing():
      self._file.close()
      self._tensorboard.close()

  def _writing(self):
    return errors.writing(self._path, 'make room and run again to go on')


class _Rewritten:
  """A file of an object store, which cannot append: every flush writes it whole."""

  def __init__(self, path, lines):
    self._path, self._lines = path, list(lines)

  def write(self, line):
    self._lines.append(line)

  def flush(self):
    self._path.write_text(''.join(self._lines))

  close = flush


class Progress:
  """A bar on a terminal; elsewhere a plain line from time to time."""

  def __init__(self, label, total, done=0):
    self._label, self._total, self._done = label, total, done
    self._began, self._first = time.monotonic(), done
    self._spoke = self._began
    self._bar = tqdm.tqdm(
      desc=label,
      total=total,
      initial=done,
      unit='batch',
      leave=False,
      disable=None if processes.is_first() else True,
      file=sys.stderr,
    )

  def update(self, batches, **figures):
    """Counts batches done, and shows figures such as the running loss."""
    self._done += batches
    self._bar.set_postfix({k: f'{v:.4g}' for k, v in figures.items()}, refresh=False)
    self._bar.update(batches)
    now = time.monotonic()
    if self._bar.disable and now - self._spoke > _SECONDS_BETWEEN_LINES:
      self._spoke = now
      log.info(
        '%s: %d/%d batches, %.2f batches/s%s',
        self._label,
        self._done,
        self._total,
        (self._done - self._first) / (now - self._began),
        ''.join(f', {name} {value:.4g}' for name, value in figures.items()),
      )

  def close(self):
    self._bar.close()


def show_progress(check):
  """Returns a function that goes through batches and shows how far it is.

  Args:
    check: called after every batch; may raise to stop.
  """

  def show(batches, label):
    progress = Progress(label, len(batches))
    try:
      for batch in batches:
        yield batch
        progress.update(1)
        check()
    finally:
      progress.close()

  return show


class LogHandler(logging.Handler):
  """Prints log records to standard error, above a progress bar if there is one."""

  def emit(self, record):
    tqdm.tqdm.write(self.format(record), file=sys.stderr)
