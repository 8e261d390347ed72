"""Functions of a user's own, which a field names as package.module:function."""

import importlib

from jaxprompt import errors


def function(name, field, known):
  """Imports the function of a name.

  Args:
    name: as the user gives it.
    field: what has the name, for an error.
    known: the other names that it might have been.

  Raises:
    UserError: if there is none.
  """
  module, colon, attribute = name.partition(':')
  if not colon:
    raise errors.UserError(
      f'{field} has {name!r:.60}; expected of {", ".join(known)}, or '
      'package.module:function'
    )
  try:
    return getattr(importlib.import_module(module), attribute)
  except Exception as e:  # whatever the user's own module raises
    raise errors.UserError(
      f'{field} has {name!r:.60}, which cannot be imported: {errors.reason(e)}'
    ) from e
