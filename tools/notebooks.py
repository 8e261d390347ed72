"""Runs the notebooks and keeps their output: python tools/notebooks.py [FILE ...]

The kernel is that of this Python. What goes to standard error, such as progress bars,
and the times of a run are not kept.
"""

import pathlib
import sys
import tempfile

import nbclient
import nbformat

FOLDER = pathlib.Path(__file__).parent.parent / 'notebooks'
_SECONDS = 600  # for a cell


def run(path, folder):
  """Returns a notebook with the output of its cells, run in a folder."""
  notebook = nbformat.read(path, as_version=4)
  resources = {'metadata': {'path': str(folder)}}
  client = nbclient.NotebookClient(
    notebook,
    timeout=_SECONDS,
    kernel_name='python3',
    resources=resources,
    record_timing=False,
  )
  client.execute()
  for cell in notebook.cells:
    if cell.cell_type == 'code':
      cell.outputs = [x for x in cell.outputs if x.get('name') != 'stderr']
  notebook.metadata.pop('language_info', None)  # of whatever Python this is
  return notebook


def main(paths):
  for path in paths:
    with tempfile.TemporaryDirectory() as folder:
      nbformat.write(run(path, folder), path)


if __name__ == '__main__':
  main(sys.argv[1:] or sorted(FOLDER.glob('*.ipynb')))
