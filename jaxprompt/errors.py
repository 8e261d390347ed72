"""The one exception that means: the user can mend this."""


class UserError(ValueError):
  """A mistake of the user's: one line with the value, what was expected, the remedy.

  `main` prints it without a traceback and exits with status 2.
  """
