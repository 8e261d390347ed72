"""The program's start: Ctrl-C while it imports modules ends it in one line.

It needs a handler: an exception raised inside of an import may be swallowed there. Of
the package and other libraries, nothing is imported before it is set.
"""

import importlib.util
import os
import signal
import sys


def run():
  """Runs the command, `jaxprompt`, for this process; returns the exit status."""
  if not importlib.util.find_spec('fcntl'):  # Windows
    print(
      f'jaxprompt: {sys.platform} is no supported platform; expected Linux or macOS',
      file=sys.stderr,
    )
    return 2
  # Else it is ignored, as in the background of a script.
  if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)
  from jaxprompt import command

  return command.run(sys.argv)


def _end(*_):
  os.write(sys.stderr.fileno(), b'jaxprompt: interrupted; run again to go on\n')
  os._exit(130)


def imports_are_done():
  """Makes Ctrl-C an exception again, so that a run can close its files."""
  if signal.getsignal(signal.SIGINT) is _end:
    signal.signal(signal.SIGINT, signal.default_int_handler)
