"""What a run writes of its scalars: metrics.jsonl, TensorBoard, Weights & Biases."""

import contextlib
import json
import os
import socket
import time

from tensorboardX import record_writer
from tensorboardX.proto import event_pb2
from tensorboardX.proto import summary_pb2

from jaxprompt import errors
from jaxprompt.devices import processes


class Writer:
  """Writes scalars to metrics.jsonl, one object a line, and to TensorBoard.

  Where a project is named, also to Weights & Biases. Of several processes, the first
  one writes; the others only count the lines.
  """

  def __init__(self, workdir, *, lines, step, project='', config=None):
    """Opens the files for a run that goes on after `step`.

    Args:
      workdir: an epath.
      lines: the lines of metrics.jsonl to keep: what the run had written by then. A
        killed run may have written more, which it will write again.
      step: the optimiser steps done.
      project: of Weights & Biases; '' = none.
      config: of the run, a nested dict, which it shows.

    Raises:
      UserError: if a file cannot be written, or the project cannot be used.
    """
    self._path = path = workdir / 'metrics.jsonl'
    self._files = contextlib.ExitStack()
    self._outputs = []
    self.lines = lines
    if not processes.is_first():
      return
    with errors.reading(path, 'make it readable'):
      kept = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    kept = kept[:lines]
    self.lines = len(kept)
    remote = '://' in os.fspath(path)
    with self._writing():
      for output in (
        _Rewritten(path, kept) if remote else _Lines(path, kept),
        _Events(str(workdir / 'tensorboard'), step),
      ):
        self._outputs.append(self._files.enter_context(contextlib.closing(output)))
    if project:
      output = _WandB(project, workdir, config)
      self._outputs.append(self._files.enter_context(contextlib.closing(output)))

  def write(self, step, scalars):
    """Takes {name: number} of an optimiser step.

    Files get it when they are flushed, where all processes learn of an error.
    """
    self.lines += 1
    for output in self._outputs:
      output.write(step, scalars)

  def flush(self):
    """Writes what was taken; raises `UserError` if there is no room."""
    with self._writing():
      for output in self._outputs:
        output.flush()

  def close(self):
    """Closes all files, also if one cannot be written."""
    with self._writing():
      self._files.close()

  def _writing(self):
    return errors.writing(self._path.parent, 'make room and run again to go on')


def _line(step, scalars):
  return json.dumps({'step': step, **scalars}, allow_nan=False).encode() + b'\n'


class _Lines:
  """A local file of lines, of which those to keep are never written again."""

  def __init__(self, path, lines):
    self._pending = []
    self._file = path.open('ab')
    self._file.truncate(sum(map(len, lines)))

  def write(self, step, scalars):
    self._pending.append(_line(step, scalars))

  def flush(self):
    pending, self._pending = self._pending, []
    self._file.write(b''.join(pending))
    self._file.flush()

  def close(self):
    with self._file:
      self.flush()


class _Rewritten:
  """A file of an object store, which cannot append: every flush writes it whole."""

  def __init__(self, path, lines):
    self._path, self._lines = path, list(lines)

  def write(self, step, scalars):
    self._lines.append(_line(step, scalars))

  def flush(self):
    self._path.write_bytes(b''.join(self._lines))

  close = flush


class _Events:
  """TensorBoard's file; written in this thread, so that its errors come to us."""

  def __init__(self, directory, step):
    record_writer.directory_check(directory)
    name = f'events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}'
    self._pending = []
    self._file = record_writer.RecordWriter(os.path.join(directory, name))
    self._take(file_version='brain.Event:2')
    if step:  # what a killed run has written after it is not shown
      status = event_pb2.SessionLog.START
      self._take(step=step + 1, session_log=event_pb2.SessionLog(status=status))

  def write(self, step, scalars):
    values = [
      summary_pb2.Summary.Value(tag=name, simple_value=value)
      for name, value in scalars.items()
    ]
    self._take(step=step, summary=summary_pb2.Summary(value=values))

  def _take(self, **content):
    event = event_pb2.Event(wall_time=time.time(), **content)
    self._pending.append(event.SerializeToString())

  def flush(self):
    pending, self._pending = self._pending, []
    for record in pending:
      self._file.write(record)
    self._file.flush()

  def close(self):
    with contextlib.closing(self._file):
      self.flush()


class _WandB:
  """A run of Weights & Biases, a new one at every start, as TensorBoard has a file.

  WANDB_MODE=offline keeps it in the workdir.
  """

  def __init__(self, project, workdir, config):
    try:
      import wandb

      settings = wandb.Settings(console='off', silent=True)
    except (ImportError, AttributeError) as e:  # a folder `wandb` is a package of none
      raise errors.UserError(
        f'log.wandb is {project!r}, which needs wandb; install it with: pip install '
        "'jaxprompt[wandb]'"
      ) from e
    name = workdir.name
    local = None if '://' in os.fspath(workdir) else os.fspath(workdir)
    try:
      self._run = wandb.init(
        project=project,
        name=name,
        group=name,
        dir=local,
        config=config,
        settings=settings,
      )
    except wandb.Error as e:
      raise errors.UserError(
        f'log.wandb is {project!r}, which cannot be used: {errors.reason(e):.300}; run '
        '`wandb login`, or set WANDB_MODE=offline'
      ) from e

  def write(self, step, scalars):
    self._run.log(scalars, step=step)

  def flush(self):
    """Does nothing: a process of its own writes what it was given."""

  def close(self):
    self._run.finish()
