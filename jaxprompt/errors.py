"""The exceptions that mean: the user can mend this; and the door for their files."""

import contextlib


class UserError(ValueError):
  """A mistake of the user's: one line with the value, what was expected, the remedy.

  `main` prints it without a traceback and exits with status 2.
  """


class RowError(ValueError):
  """What is wrong with one row of data; who reads the rows says which, and goes on."""

  def __init__(self, message, row=None):
    """Takes the message, and what is known of the row, such as its id."""
    # One line that UTF-8 can write, whatever names and values of the row are in it.
    super().__init__(reason(message))
    self.row = row or {}


def reason(error):
  """Returns what an exception says, as one line that any file can hold."""
  line = ' '.join(str(error).split()) or type(error).__name__
  return line.encode(errors='backslashreplace').decode()


@contextlib.contextmanager
def reading(file, remedy='get it again'):
  """Makes one line of whatever a library raises while it reads a user's file.

  Nothing of our own is called inside: our bugs are no mistakes of the user's.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as e:
    raise UserError(f'{file} cannot be read: {reason(e):.300}; {remedy}') from e


@contextlib.contextmanager
def writing(path, remedy='make room or choose another place'):
  """Makes one line of a file that cannot be written; as `reading`."""
  try:
    yield
  except BrokenPipeError:  # no fault of the file's
    raise
  except OSError as e:
    raise UserError(f'{path} cannot be written ({e.strerror or e}); {remedy}') from e
