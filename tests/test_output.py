"""The file of predictions: whole or absent, and nobody else's is ever changed."""

import errno
import functools
import json
import os
import pathlib
import threading

import pytest

from jaxprompt import errors
from jaxprompt import main
from jaxprompt.prompts import embeddings
from jaxprompt.prompts import exported
from jaxprompt.prompts import peft
from jaxprompt.report import page
from jaxprompt.runs import exports
from jaxprompt.runs import output

MADE_OF = {'input': 'a', 'prompt': {'x': {'content': 'b'}}, 'seed': 0}
LINES = [{'id': str(i), 'prediction': 'p' * i} for i in range(40)]
_CARD = {'README.md': f'---\n{exported.TAG}---\n'.encode()}
# The files of an export, by its format.
EXPORTED = {
  'peft': {peft.WEIGHTS: b'x', peft.CONFIG: b'x', **_CARD},
  'merged': {
    'model-00001-of-00001.safetensors': b'x',
    'tokenizer.json': b'x',
    **_CARD,
  },
  'embeddings': {
    embeddings.ARRAY: b'x',
    embeddings.USE: json.dumps({'made_by': 'jaxprompt'}, indent=2).encode(),
  },
}


def _open(path, source='-', made_of=None, overwrite=False):
  made_of = {**MADE_OF, **(made_of or {})}
  return output.open_output(str(path), str(source), made_of, overwrite=overwrite)


def _write(path, lines=LINES, **settings):
  opened = _open(path, **settings)
  with opened:
    opened.write(lines[opened.skip(len(lines)) :])
  return opened


def _text(lines):
  return ''.join(json.dumps(line) + '\n' for line in lines)


def _refused(message, *args, **settings):
  with pytest.raises(errors.UserError, match=message) as e:
    _open(*args, **settings)
  assert '\n' not in str(e.value)


def test_lines_are_in_a_partial_file_until_all_are_there(tmp_path):
  opened = _open(tmp_path / 'out')
  with opened:
    opened.write(LINES[:3])
    assert not (tmp_path / 'out').exists()
    assert (tmp_path / 'out.partial').read_text() == _text(LINES[:3])
    opened.write([{'id': '9', 'error': 'e'}])
  assert (tmp_path / 'out').read_text() == _text(
    [*LINES[:3], {'id': '9', 'error': 'e'}]
  )
  assert (opened.lines, opened.failed) == (4, 1)
  again = _open(tmp_path / 'out')
  assert again.is_finished and (again.lines, again.failed) == (4, 1)


def test_a_file_that_predict_has_not_written_is_never_changed(tmp_path):
  notes = tmp_path / 'notes.txt'
  notes.write_text('mine')
  for overwrite in (False, True):
    _refused('is there and was not written by', notes, overwrite=overwrite)
  (tmp_path / 'out.partial').write_text('mine too')
  _refused('out.partial. is there and was not written by', tmp_path / 'out')
  _refused('is there and was not written by', tmp_path)
  assert notes.read_text() == 'mine'


def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path):
  opened = _open(tmp_path / 'out', overwrite=True)
  with pytest.raises(errors.UserError, match='was not written by'), opened:
    opened.write(LINES)
    (tmp_path / 'out').write_text('mine')
  assert (tmp_path / 'out').read_text() == 'mine'
  assert (tmp_path / 'out.partial').read_text() == _text(LINES)


def test_the_input_is_never_the_output(tmp_path):
  rows = tmp_path / 'r.jsonl'
  rows.write_text('{}\n')
  (tmp_path / 'link.jsonl').symlink_to(rows)
  os.link(rows, tmp_path / 'hard.jsonl')
  for name in ('r.jsonl', 'link.jsonl', 'hard.jsonl'):
    _refused('would replace the rows of --input', tmp_path / name, rows, overwrite=True)
  assert rows.read_text() == '{}\n'


def test_an_output_that_was_changed_is_replaced_only_if_asked(tmp_path):
  out = tmp_path / 'out'
  _write(out)
  with out.open('a') as f:
    f.write('a note of mine')
  _refused('was changed since it was written; choose .* --overwrite', out)
  _write(out, LINES[:2], overwrite=True)
  assert out.read_text() == _text(LINES[:2])


def test_what_standard_input_gave_is_never_gone_on_with(tmp_path):
  opened = _open(tmp_path / 'out', made_of={'input': None})
  with pytest.raises(KeyboardInterrupt), opened:
    opened.write(LINES[:3])
    raise KeyboardInterrupt
  _write(tmp_path / 'out', LINES[5:], made_of={'input': None})
  assert (tmp_path / 'out').read_text() == _text(LINES[5:])
  _refused('has predictions of other input', tmp_path / 'out', made_of={'input': None})


def test_a_device_or_a_fifo_is_written_straight_through(tmp_path):
  _write('/dev/null')
  fifo, found = tmp_path / 'fifo', []
  os.mkfifo(fifo)
  reader = threading.Thread(target=lambda: found.append(fifo.read_text()))
  reader.start()
  _write(fifo)
  reader.join()
  assert found == [_text(LINES)]
  assert [file.name for file in tmp_path.iterdir()] == ['fifo']


def test_a_full_disk_is_one_line_and_the_next_start_goes_on(tmp_path, monkeypatch):
  opened = _open(tmp_path / 'out')

  def full(self, values):
    raise OSError(errno.ENOSPC, 'No space left on device')

  message = r'No space left on device.*run again'
  with pytest.raises(errors.UserError, match=message), opened:
    opened.write(LINES[:5])
    monkeypatch.setattr(output.Stream, 'write', full)
    opened.write(LINES[5:])
  monkeypatch.undo()
  _write(tmp_path / 'out')
  assert (tmp_path / 'out').read_text() == _text(LINES)


def test_lines_of_others_are_gone_before_a_record_would_make_them_ours(
  tmp_path, monkeypatch
):
  path = tmp_path / 'out'
  with pytest.raises(KeyboardInterrupt), _open(path) as opened:
    opened.write(LINES[:3])
    raise KeyboardInterrupt
  other = {'seed': 1}
  write = output.workdir_lib.write_json

  def killed(path, content):
    write(path, content)
    raise ZeroDivisionError

  monkeypatch.setattr(output.workdir_lib, 'write_json', killed)
  with pytest.raises(ZeroDivisionError):
    _write(path, made_of=other, overwrite=True)
  monkeypatch.undo()
  assert not (tmp_path / 'out.partial').read_text()
  assert _write(path, made_of=other).lines == len(LINES)
  assert path.read_text() == _text(LINES)


def test_a_line_that_was_torn_inside_a_character_is_written_again(tmp_path):
  lines = [{'id': str(i), 'prediction': 'Zürich'} for i in range(3)]
  with pytest.raises(KeyboardInterrupt), _open(tmp_path / 'out') as opened:
    opened.write(lines)
    raise KeyboardInterrupt
  partial = tmp_path / 'out.partial'
  content = partial.read_bytes()
  partial.write_bytes(content[: content.rindex('ü'.encode()) + 1])
  _write(tmp_path / 'out', lines)
  assert (tmp_path / 'out').read_bytes() == content


def test_two_commands_do_not_write_one_output(tmp_path):
  with _open(tmp_path / 'out') as opened:
    opened.write(LINES[:3])
    with pytest.raises(errors.UserError, match='is being written by another command'):
      _write(tmp_path / 'out')
    opened.write(LINES[3:])
  assert (tmp_path / 'out').read_text() == _text(LINES)


def test_a_partial_file_without_its_record_and_lines_is_begun(tmp_path):
  (tmp_path / 'out.partial').touch()
  _write(tmp_path / 'out')
  assert (tmp_path / 'out').read_text() == _text(LINES)


def test_a_directory_by_dots_is_refused_as_any_other(tmp_path, monkeypatch):
  (tmp_path / 'sub').mkdir()
  monkeypatch.chdir(tmp_path / 'sub')
  for path in ('.', '..'):
    _refused('is there and was not written by', path)
  _refused("--output is '/'; expected the path of a file", '/')


def test_another_scheme_or_no_path_is_refused(tmp_path, capsys):
  _refused('is no local file', 'gs://bucket/out.jsonl')
  for flag in ('input', 'output', 'workdir'):
    given = {'input': 'r.jsonl', 'output': 'o', 'workdir': str(tmp_path), flag: ''}
    argv = [f'--{name}={value}' for name, value in given.items()]
    assert main.main(['jaxprompt', '--mode=predict', *argv]) == 2
    assert f"--{flag} is ''; expected" in capsys.readouterr().err


@pytest.mark.parametrize('name', exports.FORMATS)
def test_an_export_replaces_nothing_that_is_not_one_of_ours(tmp_path, name):
  what, is_ours, *_ = exports.FORMATS[name]

  def check(directory, overwrite):
    exported.check(directory, overwrite, what, is_ours)

  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'README.md').write_text('mine')
  not_ours = f'is there and is not {what} of ours'
  for overwrite in (False, True):
    with pytest.raises(errors.UserError, match=not_ours):
      check(tmp_path / 'mine', overwrite)
  with pytest.raises(errors.UserError, match=not_ours):
    check(tmp_path / 'mine' / 'README.md', True)
  made, files = tmp_path / 'made', EXPORTED[name]
  check(made, False)
  exported.write(made, files)
  with pytest.raises(errors.UserError, match=f'has {what}; .* with --overwrite'):
    check(made, False)
  check(made, True)
  weights = next(file for file in files if file.endswith('.safetensors'))
  exported.write(made, {**files, weights: b'new'})
  assert (made / weights).read_bytes() == b'new'
  assert {file.name for file in tmp_path.iterdir()} == {'mine', 'made'}
  (made / 'notes.txt').write_text('mine')
  with pytest.raises(errors.UserError, match=not_ours):
    check(made, True)


def test_an_export_that_fails_leaves_what_was_there(tmp_path):
  exported.write(tmp_path / 'made', {'a': b'old'})
  replacing = exported.replacing(tmp_path / 'made')
  with pytest.raises(errors.UserError, match='No space left'), replacing as temporary:
    (temporary / 'a').write_bytes(b'new')
    raise OSError(errno.ENOSPC, 'No space left on device')
  assert [file.name for file in tmp_path.iterdir()] == ['made']
  assert (tmp_path / 'made' / 'a').read_bytes() == b'old'


def test_an_export_replaces_nothing_that_came_meanwhile(tmp_path):
  made = tmp_path / 'made'
  again = functools.partial(exported.check, made, True, 'a thing', lambda *_: False)
  refused = pytest.raises(errors.UserError, match='is there and is not a thing of ours')
  with refused, exported.replacing(made, again):
    made.mkdir()
    (made / 'notes.txt').write_text('mine')
  assert [file.name for file in tmp_path.iterdir()] == ['made']
  assert (made / 'notes.txt').read_text() == 'mine'


def test_a_comparison_replaces_only_a_page_of_ours(tmp_path):
  path = tmp_path / 'page.html'
  page.check_output(path)
  path.write_text('{"results": 1}')
  for wrong in (path, tmp_path):
    with pytest.raises(errors.UserError, match='is there and is no page of ours'):
      page.check_output(wrong)
  template = pathlib.Path(page.__file__).parent / 'templates' / 'base.html'
  assert page._GENERATOR in template.read_text()[: page._HEAD]
  path.write_text(f'<!doctype html>\n{page._GENERATOR}')
  page.check_output(path)
