"""The notebooks run, and are stored with the output of a whole run, in order."""

import nbformat
import pytest
from conftest import ROOT

from tools import notebooks

PATHS = sorted(notebooks.FOLDER.glob('*.ipynb'))


def _kinds(notebook):
  """Returns what kinds of output each cell has."""
  return [{x.output_type for x in cell.get('outputs', ())} for cell in notebook.cells]


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
  stored = _kinds(nbformat.read(path, as_version=4))
  assert _kinds(notebooks.run(path, tmp_path)) == stored


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_its_output(path):
  cells = [x for x in nbformat.read(path, as_version=4).cells if x.cell_type == 'code']
  assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
  outputs = [output for cell in cells for output in cell.outputs]
  assert any('image/png' in output.get('data', {}) for output in outputs)
  for output in outputs:
    assert output.output_type != 'error' and output.get('name') != 'stderr'
  assert str(ROOT) not in path.read_text() and '/tmp/' not in path.read_text()


def test_the_documentation_names_every_notebook():
  page = (ROOT / 'docs' / 'python.md').read_text()
  assert PATHS and all(f'(../notebooks/{path.name})' in page for path in PATHS)
