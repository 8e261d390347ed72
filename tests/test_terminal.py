"""Progress, with and without a terminal."""

import io
import logging
import time

import pytest

from jaxprompt.training import terminal


class _Terminal(io.StringIO):
  def isatty(self):
    return True


def test_a_terminal_shows_a_bar_with_the_rate_and_the_running_loss(monkeypatch):
  stream = _Terminal()
  monkeypatch.setattr('sys.stderr', stream)
  progress = terminal.Progress('epoch 2/3', 8, done=3)
  time.sleep(0.15)  # a bar is drawn at most ten times a second
  progress.update(5, loss=1.2345)
  progress.close()
  assert 'epoch 2/3: 100%' in stream.getvalue()
  assert '8/8' in stream.getvalue()
  assert 'batch/s, loss=1.23' in stream.getvalue()


def test_without_a_terminal_plain_lines_come_from_time_to_time(monkeypatch, caplog):
  monkeypatch.setattr('sys.stderr', io.StringIO())
  monkeypatch.setattr(terminal.log, 'handlers', [caplog.handler])
  monkeypatch.setattr(terminal.log, 'propagate', False)
  monkeypatch.setattr(terminal.log, 'level', logging.INFO)
  clock = iter([0.0, 4.0, 12.0, 13.0])
  monkeypatch.setattr(terminal.time, 'monotonic', lambda: next(clock))
  progress = terminal.Progress('epoch 1/3', 90)
  for _ in range(3):
    progress.update(6, loss=1.5)
  progress.close()
  assert [record.getMessage() for record in caplog.records] == [
    'epoch 1/3: 12/90 batches, 1.00 batches/s, loss 1.5'
  ]


def test_going_through_batches_stops_where_the_check_raises():
  seen = []

  def check():
    if len(seen) == 2:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    for batch in terminal.show_progress(check)(['a', 'b', 'c'], 'test'):
      seen.append(batch)
  assert seen == ['a', 'b']
