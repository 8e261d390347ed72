"""The files of a checkpoint, in a directory or from the hub."""

import json
import os
import pathlib

from jaxprompt import errors
from jaxprompt import hub

_GIT_LFS = b'version https://git-lfs'


def find(path, name):
  """Returns the local path of a checkpoint's file, or None if it has none.

  Args:
    path: a directory, or a hub id, whose file is downloaded if need be.
    name: of the file.

  Raises:
    UserError: if the file is a stand-in for one that git-lfs has not fetched.
  """
  if os.path.isdir(path):
    found = os.path.join(path, name)
    found = found if os.path.isfile(found) else None
  else:
    with hub.one_line(path, 'model.path'):
      found = hub.find(path, name)
  if found is None:
    return None
  with errors.reading(found), open(found, 'rb') as f:
    start = f.read(len(_GIT_LFS))
  if start == _GIT_LFS:
    raise errors.UserError(
      f'{found} is a Git LFS pointer, not the file itself; fetch it with: git lfs pull'
    )
  return pathlib.Path(found)


def read_json(path, name):
  """Returns the object in a checkpoint's JSON file; None if it has no such file."""
  file = find(path, name)
  if file is None:
    return None
  with errors.reading(file):
    content = json.loads(file.read_text(encoding='utf-8'))
  if not isinstance(content, dict):
    raise errors.UserError(f'{file} holds {content!r:.40}; expected a JSON object')
  return content
