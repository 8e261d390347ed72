"""What comes with the package under the name `tiny`: a small GPT-2, four data sets.

`tools/tiny/build.py` makes both; jaxprompt/tiny/model/README.md says what they are.
"""

import pathlib

NAME = 'tiny'
_FOLDER = pathlib.Path(__file__).parent / 'tiny'


def model_path(path):
  """Returns the embedded model's directory for its name, any other path as it is."""
  return str(_FOLDER / 'model') if path == NAME else path


def data_path(path, task):
  """Returns a task's embedded directory for its name, any other path as it is."""
  return str(_FOLDER / 'data' / task) if path == NAME else path
