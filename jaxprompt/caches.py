"""Folders of what can be made again: where they are, and how they stay small."""

import contextlib
import os
import pathlib

ROOT = pathlib.Path('~/.cache/jaxprompt')


def folder(name):
  """Returns the folder of a cache, made if it is missing.

  None where there is no home to have it in, or it cannot be written.
  """
  try:
    found = ROOT.expanduser() / name
    found.mkdir(parents=True, exist_ok=True)
  except (OSError, RuntimeError):  # the latter: there is no telling where home is
    return None
  return found if os.access(found, os.W_OK) else None


def make_room(folder, suffix, most_bytes):
  """Deletes the entries that were not used for the longest time, beyond the most.

  Other processes may use the folder, and do the same. Where the file system does not
  note when a file was read, it counts as used when it was written.

  Args:
    folder: a `pathlib.Path`.
    suffix: of the names of its entries; other files stay.
    most_bytes: of all entries.
  """
  found = []
  with os.scandir(folder) as files:
    for file in files:
      if file.name.endswith(suffix):
        with contextlib.suppress(FileNotFoundError):
          stat = file.stat()
          found.append((max(stat.st_atime, stat.st_mtime), stat.st_size, file.name))
  total = 0
  for _, size, name in sorted(found, reverse=True):
    total += size
    if total > most_bytes:
      (folder / name).unlink(missing_ok=True)
