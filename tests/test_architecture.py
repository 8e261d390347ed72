"""The house: folders of one subject, imports that point down, readable files."""

import ast
import re

import pytest
from conftest import ROOT

PACKAGE = ROOT / 'jaxprompt'
FILES = sorted(PACKAGE.rglob('*.py'))
MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS = 400, 60, 8


def _floors():
  """{folder or file: its floor}, by the table of docs/architecture.md."""
  text = (ROOT / 'docs' / 'architecture.md').read_text()
  rows = re.findall(r'^\| (\d+) \| (.+?) \|', text, re.M)
  return {name: int(floor) for floor, names in rows for name in _names(names)}


def _names(cell):
  return [name.strip('`/ ').removesuffix('.py') for name in cell.split(',')]


def _room(path):
  """The folder of a file, or the file itself if it stands in the package."""
  parts = path.relative_to(PACKAGE).with_suffix('').parts
  return parts[0]


def _imports(path):
  """The rooms and files that a file imports, (room, file)."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('jaxprompt'):
      for alias in node.names:
        parts = [*node.module.split('.')[1:], alias.name]
        yield parts[0], parts[-1]


def test_every_file_has_a_floor_and_there_are_at_most_ten_folders():
  rooms = {_room(path) for path in FILES} - {'__init__', 'configs'}
  assert rooms == _floors().keys()
  folders = [path for path in PACKAGE.iterdir() if (path / '__init__.py').exists()]
  assert len(folders) <= 10


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
  floors = _floors()
  own = _room(path)
  for room, _ in _imports(path):
    if room != own:
      assert floors[room] < floors.get(own, 99), (own, room)


def test_no_two_files_of_a_folder_import_each_other():
  edges = {}
  for path in FILES:
    if len(path.relative_to(PACKAGE).parts) > 1:
      own = _room(path)
      edges[own, path.stem] = {
        (own, name) for room, name in _imports(path) if room == own
      }

  def reach(start, seen):
    for end in edges.get(start, ()):
      if end not in seen:
        seen.add(end)
        reach(end, seen)
    return seen

  assert not [file for file in edges if file in reach(file, set())]


def _functions(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.FunctionDef):
      yield node


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_a_function_and_a_signature_can_be_read(path):
  assert len(path.read_text().splitlines()) <= MOST_LINES
  for function in _functions(path):
    length = function.end_lineno - function.lineno + 1
    assert length <= MOST_FUNCTION_LINES, f'{function.name} has {length} lines'
    own = function.args
    names = [x.arg for x in [*own.posonlyargs, *own.args, *own.kwonlyargs]]
    count = len([name for name in names if name not in ('self', 'cls')])
    assert count <= MOST_PARAMETERS, f'{function.name} takes {count} parameters'


def test_a_family_is_a_small_file_that_no_other_knows_but_the_loader():
  families = PACKAGE / 'lm' / 'families'
  for path in families.glob('*.py'):
    assert path.name == 'common.py' or len(path.read_text().splitlines()) <= 60, path
  knows = {path.name for path in FILES if 'lm.families' in path.read_text()}
  assert knows - {path.name for path in families.glob('*.py')} == {'loading.py'}


def test_the_model_looks_at_no_global_state():
  for folder in ('lm', 'prompts', 'infer'):
    for path in (PACKAGE / folder).glob('*.py'):
      text = path.read_text()
      assert 'default_backend' not in text and 'device_count' not in text, path
