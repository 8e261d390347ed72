"""What a run writes of its scalars, and what becomes of it when it is stopped."""

import errno
import json
import os
import pathlib
import struct
import sys
import types

import pytest
import wandb
from tensorboardX.proto import event_pb2

from jaxprompt import errors
from jaxprompt.training import writer


def _tensorboard(workdir):
  """Returns {(name, step): value} of all event files, by the format of TFRecord."""
  found = {}
  for path in sorted((workdir / 'tensorboard').iterdir()):
    content = path.read_bytes()
    while content:
      (size,) = struct.unpack('<Q', content[:8])
      event = event_pb2.Event.FromString(content[12 : 12 + size])
      for value in event.summary.value:
        found[value.tag, event.step] = value.simple_value
      content = content[12 + size + 4 :]
  return found


def test_metrics_and_tensorboard_hold_the_same_scalars(tmp_path):
  log = writer.Writer(tmp_path, lines=0, step=0)
  log.write(1, {'train_loss': 2.5, 'grad_norm': 0.25})
  log.write(2, {'train_loss': 1.5})
  log.close()
  lines = [json.loads(x) for x in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert lines[0] == {'step': 1, 'train_loss': 2.5, 'grad_norm': 0.25}
  scalars = {(k, x['step']): v for x in lines for k, v in x.items() if k != 'step'}
  assert _tensorboard(tmp_path) == scalars


def test_a_run_that_goes_on_drops_the_lines_it_will_write_again(tmp_path):
  log = writer.Writer(tmp_path, lines=0, step=0)
  for step in range(1, 5):
    log.write(step, {'train_loss': 1.0})
  log.close()
  again = writer.Writer(tmp_path, lines=2, step=2)
  assert again.lines == 2
  again.write(3, {'train_loss': 7.0})
  again.close()
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [1, 2, 3]


def _fill_disk(monkeypatch):
  """Makes every line that is flushed from now on find no room."""

  def full(self):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(writer._Lines, 'flush', full)
  monkeypatch.setattr(writer.record_writer.RecordWriter, 'flush', full)


def test_a_full_disk_costs_no_line_that_was_kept(tmp_path, monkeypatch):
  log = writer.Writer(tmp_path, lines=0, step=0)
  log.write(1, {'train_loss': 2.5})
  log.close()
  before = (tmp_path / 'metrics.jsonl').read_bytes()
  monkeypatch.setattr(pathlib.Path, 'write_bytes', lambda *_: pytest.fail('rewritten'))
  with monkeypatch.context() as full:
    _fill_disk(full)
    log = writer.Writer(tmp_path, lines=1, step=1)
    log.write(2, {'train_loss': 2.5})
    with pytest.raises(errors.UserError, match=r'No space left on device.*go on'):
      log.flush()
  log.close()
  assert (tmp_path / 'metrics.jsonl').read_bytes().startswith(before)


def test_a_full_disk_is_met_at_a_flush_however_much_was_written(tmp_path):
  log = writer.Writer(tmp_path, lines=0, step=0)
  with pathlib.Path('/dev/full').open('wb') as full:
    for output in log._outputs:
      os.dup2(full.fileno(), getattr(output._file, '_writer', output._file).fileno())
  for step in range(1, 1001):  # more than a file's buffer holds
    log.write(step, {'train_loss': 2.5})
  with pytest.raises(errors.UserError, match='No space left on device'):
    log.flush()
  with pytest.raises(errors.UserError, match='No space left on device'):
    log.close()  # of what the buffer still holds


def test_a_file_that_cannot_be_closed_does_not_keep_the_other_open(tmp_path):
  log = writer.Writer(tmp_path, lines=0, step=0)
  lines, events = log._outputs
  with pathlib.Path('/dev/full').open('wb') as full:
    os.dup2(full.fileno(), events._file._writer.fileno())
  log.write(1, {'train_loss': 2.5})
  with pytest.raises(errors.UserError, match='No space left on device'):
    log.close()
  assert lines._file.closed and events._file._writer.closed
  assert len((tmp_path / 'metrics.jsonl').read_text().splitlines()) == 1


def test_a_project_of_weights_and_biases_gets_the_scalars_too(tmp_path, monkeypatch):
  monkeypatch.setenv('WANDB_MODE', 'offline')
  workdir = tmp_path / 'mine'
  workdir.mkdir()
  for done in (0, 3):  # a run, and the run that goes on
    log = writer.Writer(
      workdir, lines=done, step=done, project='prompts', config={'train': {'steps': 7}}
    )
    log.write(done + 1, {'train_loss': 2.828125 + done})
    log.flush()
    log.close()
  runs = sorted((workdir / 'wandb').glob('offline-run-*/*.wandb'))
  contents = {run.read_bytes() for run in runs}
  assert len(contents) == 2
  for content in contents:
    assert all(each in content for each in (b'train_loss', b'prompts', b'mine'))
  for value in (b'2.828125', b'5.828125'):
    assert sum(value in each for each in contents) == 1


def test_a_project_that_cannot_be_used_is_one_line(tmp_path, monkeypatch):
  def no_key(**_):
    raise wandb.Error('no API key\nis configured')

  monkeypatch.setattr(wandb, 'init', no_key)
  message = r"log\.wandb is 'p', .* no API key is configured; run .*MODE=offline"
  with pytest.raises(errors.UserError, match=message):
    writer.Writer(tmp_path, lines=0, step=0, project='p')


# A folder `wandb`, as the package leaves it, is a package of nothing.
@pytest.mark.parametrize('found', [None, types.ModuleType('wandb')])
def test_without_its_package_a_project_is_refused(tmp_path, monkeypatch, found):
  monkeypatch.setitem(sys.modules, 'wandb', found)
  with pytest.raises(errors.UserError, match=r"pip install 'jaxprompt\[wandb\]'"):
    writer.Writer(tmp_path, lines=0, step=0, project='p')
