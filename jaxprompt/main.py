"""The command: one call to a mode, and what a user sees of an error.

What takes seconds to import comes after the flags are read: a mistake in them shows at
once. Ctrl-C ends those imports in one line, which needs a handler: an exception that is
raised inside of an import may be swallowed there.
"""

import importlib.util
import os
import signal
import sys

_HELP = {f'{dash}{name}' for dash in ('-', '--') for name in ('help', 'helpfull', 'h')}


def start():
  """Runs the command for this process; returns the exit status."""
  if not importlib.util.find_spec('fcntl'):  # Windows
    print(
      f'jaxprompt: {sys.platform} is no supported platform; expected Linux or macOS',
      file=sys.stderr,
    )
    return 2
  # As `python -m` does, for functions of one's own beside where the command is started.
  if not sys.flags.safe_path:
    sys.path.insert(0, '')
  # Else it is ignored, as in the background of a script.
  if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)
  return main(sys.argv)


def _end(*_):
  os.write(sys.stderr.fileno(), b'jaxprompt: interrupted; run again to go on\n')
  os._exit(130)


def main(argv):
  """Runs the command, the program's name and its flags; returns the exit status."""
  from jaxprompt import errors
  from jaxprompt import flags

  try:
    if _HELP.intersection(argv):
      print(flags.usage(), flush=True)
      return 0
    values, arguments = flags.parse(argv)
    # transformers 5 would say that there is no torch, of which nothing is used.
    os.environ['TRANSFORMERS_NO_ADVISORY_WARNINGS'] = '1'
    from jaxprompt import modes

    if signal.getsignal(signal.SIGINT) is _end:
      # An exception again, so that a run can close its files.
      signal.signal(signal.SIGINT, signal.default_int_handler)
    return modes.perform(values, arguments)
  except errors.UserError as e:
    print(f'jaxprompt: {" ".join(str(e).split())}', file=sys.stderr)
    return 2
  except BrokenPipeError:  # who read what this prints has left, as `head` does
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE
  except KeyboardInterrupt:
    print('jaxprompt: interrupted; run again to go on', file=sys.stderr)
    return 130


if __name__ == '__main__':
  sys.exit(start())
