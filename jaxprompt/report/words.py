"""What is said of arms in sentences: it rests on their paired differences alone."""

from jaxprompt.prompts import arms
from jaxprompt.report import page
from jaxprompt.runs import records
from jaxprompt.runs import results as results_lib
from jaxprompt.tasks import metrics


def title(arm):
  return arms.ARMS[arm].title


def deciding(results):
  """Returns the figure that says which arm is best.

  It is the loss; of a classification its first metric, since only labels are compared.
  """
  is_ranked = 'confusion' in results['test']['soft']
  return records.figures_of(results)[1] if is_ranked else 'loss'


def headline(results):
  """Says in a few words which arm is best, if that can be said."""
  test, figure = results['test'], deciding(results)
  best_words, level_words = 'the lowest test loss', named(figure)
  if figure != 'loss':
    level_words += ' on the test rows'
    best_words = f'the best {level_words}'
  best, *others = sorted(
    test,
    key=lambda arm: test[arm][figure],
    reverse=not metrics.of(figure).lower_is_better,
  )
  if not others:
    return (
      f'{capital(title(best))} alone: {level_words} {page.number(test[best][figure])}'
    )
  level = [
    other
    for other in others
    if results_lib.difference(results, figure, best, other)['better'] is None
  ]
  if level:
    names = listed(map(title, [best, *level]))
    return f'No arm is surely ahead: {names} are level in {level_words}'
  return f'{capital(title(best))} has {best_words}'


def findings(results, metric):
  """Says in sentences how the soft prompt compares, in the loss and a metric."""
  pairs = [('loss', results_lib.best_other(results, 'loss')), ('loss', 'none')]
  pairs.append((metric, results_lib.best_other(results, metric)))
  return [
    sentence(results, figure, other)
    for figure, other in dict.fromkeys(pairs)
    if other in results['test']
  ]


def named(figure):
  """Returns what a figure is called within a sentence."""
  return 'test loss' if figure == 'loss' else metrics.of(figure).title


def sentence(results, figure, other):
  """Says how the soft prompt stands to another arm, by their paired difference."""
  test = results['test']
  found = results_lib.difference(results, figure, 'soft', other)
  what = named(figure)
  figures = (
    f'{page.number(test["soft"][figure])} against {page.number(test[other][figure])}'
  )
  by = f'{signed(found["difference"])} {interval(found["ci95"])}'
  rows = f'over {test["soft"]["examples"]:,} test rows'
  if found['better'] is None:
    return (
      f'In {what} the soft prompt and {title(other)} cannot be told apart: {figures}, '
      f'a difference of {by} {rows}.'
    )
  side = 'better' if found['better'] else 'worse'
  return (
    f"The soft prompt's {what} is {side} than with {title(other)}: {figures}, a "
    f'difference of {by} {rows}.'
  )


def listed(texts):
  """Returns texts as one: a, b and c."""
  *others, last = texts
  return f'{", ".join(others)} and {last}' if others else last


def capital(text):
  return text[:1].upper() + text[1:]


def signed(value):
  return ('-' if value < 0 else '+') + page.number(abs(value))


def interval(ends):
  return '[' + ', '.join(map(signed, ends)) + ']'
