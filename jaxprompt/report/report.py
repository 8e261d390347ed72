"""report.html: what a workdir's files tell of one run, finished or not, on one page."""

import dataclasses

from jaxprompt.report import charts
from jaxprompt.report import page
from jaxprompt.runs import records
from jaxprompt.runs import results as results_lib
from jaxprompt.runs import workdir as workdir_lib
from jaxprompt.tasks import metrics as metrics_lib
from jaxprompt.tasks import tasks
from jaxprompt.train import epochs as epochs_lib

ARM_TITLES = {
  'none': 'no prompt',
  'hard': 'the hard prompt',
  'soft': 'the soft prompt',
}


@dataclasses.dataclass(frozen=True)
class Verdict:
  """How the soft prompt stands to another arm in one figure."""

  figure: str
  other: str  # the other arm's name
  better: bool | None  # whether the soft prompt is; None if they are the same
  soft: float
  against: float  # the other arm's figure
  soft_interval: tuple[float, float]  # 95%, over rows
  other_interval: tuple[float, float]


def write(workdir):
  """Writes the workdir's report.html from its other files.

  Args:
    workdir: an epath.

  Returns:
    The path of the page.

  Raises:
    UserError: if it is no run's workdir, or one of its files cannot be read.
  """
  stored = records.read_config(workdir)
  path = workdir / 'report.html'
  workdir_lib.write(path, render(stored, *_read(workdir), name=workdir.name))
  return path


def _read(workdir):
  """Returns results (or None), the metrics' lines, and {arm: rows} of those written."""
  predictions = {}
  for arm in results_lib.ARMS:
    rows = records.read_predictions(workdir, arm)
    if rows:
      predictions[arm] = rows
  return (
    records.read_results(workdir),
    records.read_metrics(workdir),
    predictions,
  )


def render(stored, results, metrics, predictions, *, name):
  """Returns the page.

  Args:
    stored: the content of config.json.
    results: that of results.json, or None for a run that has not finished.
    metrics: the objects of metrics.jsonl, in order.
    predictions: {arm: the objects of its predictions, in order}.
    name: what the run is called.
  """
  epochs = [line for line in metrics if 'validation_loss' in line]
  best = epochs_lib.best(epochs)
  task = stored['config']['task']
  figures = ['loss', *tasks.TASKS[task].metrics]
  return page.render(
    'report.html',
    name=name,
    config=stored['config'],
    settings=workdir_lib.flatten(stored['config']),
    versions=stored['versions'],
    devices=stored['devices'],
    results=results,
    epochs=epochs,
    validated=_validated(epochs),
    best=best,
    arms=results_lib.ARMS,
    arm_titles=ARM_TITLES,
    headline=results and headline(results['test']),
    findings=results and findings(results['test'], figures[1]),
    figures=figures,
    bars=results and _bars(results['test'], figures),
    curves=_curves(metrics, epochs, best),
    rows=_rows(task, predictions),
  )


def _validated(epochs):
  """Returns the names of what was measured of the validation rows."""
  fields = epochs[0] if epochs else ()
  return [
    field.removeprefix('validation_') for field in fields if 'validation_' in field
  ]


def verdict(test, figure, other):
  """Compares the soft prompt with another arm.

  Args:
    test: as in results.json.
    figure: `loss` or a metric.
    other: an arm.
  """
  soft, against = test['soft'][figure], test[other][figure]
  intervals = [tuple(test[arm]['ci95'][figure]) for arm in ('soft', other)]
  better = (soft < against) == page.lower_is_better(figure)
  return Verdict(
    figure,
    other,
    None if soft == against else better,
    soft,
    against,
    *intervals,
  )


def headline(test):
  """Says in a few words which arm has the lowest loss."""
  order = sorted(results_lib.ARMS, key=lambda arm: test[arm]['loss'])
  best, second = order[:2]
  if test[best]['loss'] == test[second]['loss']:
    return 'No arm is ahead: the lowest test loss is shared'
  return f'{ARM_TITLES[best].capitalize()} has the lowest test loss'


def findings(test, metric):
  """Says in sentences how the soft prompt compares, in the loss and a metric."""
  rows = test['soft']['examples']
  return [
    sentence(verdict(test, figure, other), rows)
    for figure, other in (('loss', 'hard'), ('loss', 'none'), (metric, 'hard'))
  ]


def sentence(found, rows):
  """Says one `Verdict` over a number of test rows.

  The arms have the same rows, so that nothing follows from whether their intervals
  overlap, and nothing is concluded from it.
  """
  what = 'test loss' if found.figure == 'loss' else page.title(found.figure)
  unit = ' nats per token' if found.figure == 'loss' else ''
  soft = f'{page.number(found.soft)} {_interval(found.soft_interval)}{unit}'
  start, other = f"The soft prompt's {what} is {soft}", ARM_TITLES[found.other]
  if found.better is None:
    return f'{start}, the same as with {other}.'
  by = page.number(abs(found.soft - found.against))
  side = 'better' if found.better else 'worse'
  against = f'{page.number(found.against)} {_interval(found.other_interval)}'
  return f'{start}, {by} {side} than with {other} ({against}), on {rows:,} test rows.'


def _interval(ends):
  return '[' + ', '.join(map(page.number, ends)) + ']'


def _bars(test, figures):
  """Returns {figure: the arms' bars}."""
  return {
    figure: charts.bars(
      {arm: test[arm][figure] for arm in results_lib.ARMS},
      {arm: test[arm]['ci95'][figure] for arm in results_lib.ARMS},
    )
    for figure in figures
  }


def _curves(metrics, epochs, best):
  """Returns [(title, `charts.Lines`)] of what a run wrote while it trained."""

  def series(name, lines, title, dots=False):
    points = [charts.Point(line['step'], line[name]) for line in lines if name in line]
    return charts.Series(title, points, dots)

  mark = best and charts.Point(best['step'], best['validation_loss'])
  losses = [
    series('train_loss', metrics, 'training'),
    series('validation_loss', epochs, 'validation', dots=True),
  ]
  found = {
    'Loss while training': charts.lines(
      losses, x_label='optimiser step', y_label='nats per token', mark=mark
    )
  }
  for title, name, y_label in (
    ("The prompt's gradient", 'grad_norm', 'its norm, before clipping'),
    ("The prompt's drift", 'prompt_drift', 'norm of its difference from its start'),
  ):
    line = series(name, metrics, name)
    found[title] = charts.lines([line], x_label='optimiser step', y_label=y_label)
  return [(title, lines) for title, lines in found.items() if lines]


def _rows(task, predictions):
  """Returns what the page's script shows of the test rows, or None without them."""
  if predictions.keys() != set(results_lib.ARMS):
    return None
  arms = [predictions[arm] for arm in results_lib.ARMS]
  scores = [_scores(task, rows) for rows in arms]
  names = list(scores[0][0])
  return {
    'arms': results_lib.ARMS,
    'figures': [
      {'title': page.title(name), 'lower': page.lower_is_better(name)} for name in names
    ],
    'rows': [
      {
        'id': row[0]['id'],
        'source': row[0]['source'],
        'target': row[0]['target'],
        'predictions': [arm['prediction'] for arm in row],
        'scores': [[round(arm[name], 4) for name in names] for arm in row_scores],
      }
      for row, row_scores in zip(
        zip(*arms, strict=True), zip(*scores, strict=True), strict=True
      )
    ],
  }


def _scores(task, rows):
  """Returns {figure: value} of each row; what the file lacks comes from its texts."""
  if 'scores' in rows[0]:
    return [row['scores'] for row in rows]
  measured = tasks.TASKS[task].score(
    [row['prediction'] for row in rows], [[row['target']] for row in rows]
  )
  columns = [metrics_lib.row_figures(statistics) for statistics in measured.values()]
  return [
    dict(zip(measured, values, strict=True)) for values in zip(*columns, strict=True)
  ]
