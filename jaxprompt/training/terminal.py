"""What the terminal shows: how far a run is, and lines of the log."""

import logging
import sys
import time

import tqdm

from jaxprompt.devices import processes

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0  # of progress, where there is no terminal for a bar


def _shows_bars(stream):
  """Returns whether a line written there can be written over."""
  return stream.isatty() or type(stream).__module__.startswith('ipykernel')


class Progress:
  """A bar on a terminal or in a notebook; elsewhere a plain line from time to time."""

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
      disable=not (processes.is_first() and _shows_bars(sys.stderr)),
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


def show_progress(check=lambda: None):
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
