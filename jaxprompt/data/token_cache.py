"""Tables of tokens, kept between runs: what was tokenised once is read again.

An entry is a file, named by a hash of all that its content is made of. It holds an
Arrow stream and, at its end, the stream's digest: a file that was torn or changed is no
entry. Entries are written beside their place and renamed, so any number of processes
may share the folder, and any of them may be killed.
"""

import contextlib
import hashlib
import os
import uuid

import pyarrow

from jaxprompt import caches

_SUFFIX = '.tokens'
_MOST_BYTES = 20 * 10**9  # of all entries: some 100 million short rows
_DIGEST_BYTES = hashlib.sha256().digest_size


def get(key, make):
  """Returns the table that `make()` gives, and keeps it; or the one that was kept.

  Args:
    key: a name that stands for the content.
    make: gives a `pyarrow.Table`.
  """
  folder = caches.folder('tokens')
  if folder is None:
    return make()
  file = folder / f'{key}{_SUFFIX}'
  table = _read(file)
  if table is None:
    table = make()
    with contextlib.suppress(OSError):  # a full disk: the next run tokenises again
      _write(file, table)
      caches.make_room(folder, _SUFFIX, _MOST_BYTES)
  return table


def _read(file):
  """Returns the table of an entry; None if there is none, or it is not whole."""
  try:
    # Read, not mapped: a mapped file that another host replaces ends the process.
    content = pyarrow.py_buffer(file.read_bytes())
    os.utime(file)  # it was used
  except OSError:
    return None
  stream, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
  if hashlib.sha256(stream).digest() != digest.to_pybytes():
    return None
  return pyarrow.ipc.open_stream(stream).read_all()


def _write(file, table):
  sink = pyarrow.BufferOutputStream()
  with pyarrow.ipc.new_stream(sink, table.schema) as writer:
    writer.write_table(table)
  stream = sink.getvalue()
  beside = file.with_name(f'.{uuid.uuid4()}{_SUFFIX}')
  try:
    with beside.open('wb') as f:
      f.write(stream)
      f.write(hashlib.sha256(stream).digest())
    beside.replace(file)
  finally:
    beside.unlink(missing_ok=True)
