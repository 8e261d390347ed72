"""The directories that an export writes: whole or not at all, over nothing else."""

import contextlib
import os
import pathlib
import shutil

from jaxprompt import errors

README = 'README.md'
TAG = '- jaxprompt\n'  # of a card: that this package has written what is beside it
_LABELS = """
The labels of {task} are ranked, not generated: {labels}. Of each, sum the
log-likelihoods of its tokens after the text, with a space in front of it and `{end}`
behind it.
"""


def is_tagged(directory):
  """Returns whether a directory's card says that this package has written it."""
  with errors.reading(directory / README, 'choose another --output'):
    return TAG in (directory / README).read_text('utf-8', 'replace')


def check(directory, overwrite, what, is_ours):
  """Refuses to write where something else is.

  Args:
    directory: a pathlib path.
    overwrite: what an export has written may be there.
    what: what is to be written, such as 'an adapter'.
    is_ours: from the directory and the names in it to whether it is one that this
      package has written, and nothing else is there.

  Raises:
    UserError: says what is there.
  """
  if not directory.exists():
    return
  with errors.reading(directory, 'choose another --output'):
    names = {file.name for file in directory.iterdir()} if directory.is_dir() else {''}
  if not names:
    return
  if not is_ours(directory, names):
    raise errors.UserError(
      f'--output {str(directory)!r} is there and is not {what} of ours; choose a '
      'directory that does not exist'
    )
  if not overwrite:
    raise errors.UserError(
      f'--output {str(directory)!r} has {what}; choose another directory, or replace '
      'it with --overwrite'
    )


@contextlib.contextmanager
def replacing(directory, check_again=lambda: None):
  """Gives an empty directory to fill, which then becomes `directory`.

  Args:
    directory: a pathlib path.
    check_again: raises if what is there meanwhile is not to be replaced; see `check`.
  """
  temporary = directory.with_name(f'.{directory.name}.partial')
  old = directory.with_name(f'.{directory.name}.old')
  with errors.writing(f'--output {str(directory)!r}'), contextlib.ExitStack() as stack:
    if old.exists() and not directory.exists():  # killed between the two renames
      old.rename(directory)
    shutil.rmtree(temporary, ignore_errors=True)
    stack.callback(shutil.rmtree, temporary, ignore_errors=True)  # what an error leaves
    temporary.mkdir(parents=True)
    yield temporary
    check_again()
    if directory.exists():
      shutil.rmtree(old, ignore_errors=True)
      directory.rename(old)
    os.rename(temporary, directory)
    shutil.rmtree(old, ignore_errors=True)


def write(directory, files, check_again=lambda: None):
  """Writes {name: bytes} as the files of a directory; arguments as of `replacing`."""
  with replacing(directory, check_again) as temporary:
    for name, content in files.items():
      (temporary / name).write_bytes(content)


def shown(base):
  """Returns what to call a model in what is published: no path of this machine."""
  return pathlib.PurePath(base).name if pathlib.PurePath(base).is_absolute() else base


def ranked(template, prompt):
  """Returns how a classification is answered; '' for another task."""
  task = prompt.task
  if not task.labels:
    return ''
  named = ', '.join(f'`{label}`' for label in task.labels)
  end = template.tokenizer.eos_token
  return _LABELS.format(task=task.name, labels=named, end=end)
