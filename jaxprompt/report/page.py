"""Self-contained HTML pages: the templates, and how figures are written in them."""

import jinja2

from jaxprompt import errors
from jaxprompt.tasks import metrics

_GENERATOR = '<meta name="generator" content="jaxprompt">'
_HEAD = 2000  # bytes of a page that hold it


def number(value):
  """Writes a figure with the digits that a reader compares."""
  size = abs(value)
  if size >= 1000:
    return f'{value:,.0f}'
  if size >= 10:
    return f'{value:.2f}'
  if size >= 0.01 or size == 0:
    return f'{value:.3f}'
  return f'{value:.2g}'


def count(value):
  """Writes a number of parameters: 124M."""
  for size, letter in ((10**9, 'B'), (10**6, 'M'), (10**3, 'k')):
    if value >= 0.9995 * size:  # which would be written as 1000 of the next
      return f'{value / size:.3g}{letter}'
  return str(value)


def check_output(path):
  """Refuses to write a page, an epath, where something else is.

  Raises:
    UserError: names it.
  """
  if not path.exists():
    return
  start = ''
  if not path.is_dir():
    with errors.reading(path, 'choose another --output'), path.open('rb') as f:
      start = f.read(_HEAD).decode(errors='replace')
  if _GENERATOR not in start:
    raise errors.UserError(
      f'{path} is there and is no page of ours; choose another --output, or move it'
    )


def render(template, **values):
  """Returns a page of the package's templates; all values are escaped."""
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('jaxprompt.report'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters.update(number=number, count=count, metric=metrics.of)
  return environment.get_template(template).render(**values)
