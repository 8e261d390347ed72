"""report.html: what a workdir's files tell of one run, finished or not, on one page."""

import types

from jaxprompt.report import charts
from jaxprompt.report import page
from jaxprompt.report import words
from jaxprompt.runs import records
from jaxprompt.runs import results as results_lib
from jaxprompt.runs import workdir as workdir_lib
from jaxprompt.tasks import metrics as metrics_lib
from jaxprompt.training import epochs as epochs_lib


def write(workdir):
  """Writes the workdir's report.html from its other files.

  Args:
    workdir: an epath.

  Returns:
    The path of the page.

  Raises:
    UserError: if it is no run's workdir, or one of its files cannot be read.
  """
  stored = records.read_run(workdir)
  path = workdir / 'report.html'
  workdir_lib.write(path, render(stored, *_read(workdir), name=workdir.name))
  return path


def _read(workdir):
  """Returns results (or None), the metrics' lines, and {arm: rows} of those tested."""
  results, predictions = records.read_results(workdir), {}
  for arm in results['test'] if results else ():
    rows = records.read_predictions(workdir, arm)
    if rows:
      predictions[arm] = rows
  return results, records.read_metrics(workdir), predictions


def render(stored, results, metrics, predictions, *, name):
  """Returns the page.

  Args:
    stored: the content of config.json.
    results: that of results.json, or None for a run that has not finished.
    metrics: the objects of metrics.jsonl, in order.
    predictions: {arm: the objects of its predictions, in order}.
    name: what the run is called.
  """
  config = records.as_measured(stored, results)
  epochs = [line for line in metrics if 'validation_loss' in line]
  figures = ['loss', *config['metrics']]
  if results:
    figures = records.figures_of(results)
  names = list(results['test']) if results else config['arms']
  best = epochs_lib.best(epochs)
  return page.render(
    'report.html',
    name=name,
    config=config,
    settings=workdir_lib.flatten(config),
    versions=stored['versions'],
    devices=stored['devices'],
    results=results,
    trained=epochs_lib.is_over(epochs, types.SimpleNamespace(**config['train'])),
    epochs=epochs,
    validated=_validated(epochs),
    best=best,
    arms=names,
    headline=results and words.headline(results),
    findings=results and words.findings(results, figures[1]),
    standings=results and _standings(results, figures),
    figures=figures,
    spreads=results and any('spread' in each for each in results['test'].values()),
    bars=results and _bars(results['test'], figures),
    costs=results and [(f, _costs(results, f)) for f in ('loss', figures[1])],
    curves=_curves(metrics, epochs, best),
    rows=results and _rows(results, predictions),
  )


def _validated(epochs):
  """Returns the names of what was measured of the validation rows."""
  fields = epochs[0] if epochs else ()
  return [
    field.removeprefix('validation_') for field in fields if 'validation_' in field
  ]


def _standings(results, figures):
  """Returns [(other arm, [(difference, interval, 'better' or ...) by figure])]."""

  def cell(figure, other):
    found = results_lib.difference(results, figure, 'soft', other)
    verdict = results_lib.VERDICTS[found['better']]
    return words.signed(found['difference']), words.interval(found['ci95']), verdict

  others = [name for name in results['test'] if name != 'soft']
  return [(other, [cell(figure, other) for figure in figures]) for other in others]


def _costs(results, figure):
  """Returns the chart of an arm's figure by the tokens that it adds to a query."""

  def point(name, entry):
    tokens = results['tuning'][name]['tokens']
    return charts.Point(tokens, entry[figure], *entry['ci95'][figure])

  return charts.lines(
    [
      charts.Series(name, [point(name, entry)], dots=True)
      for name, entry in results['test'].items()
    ],
    x_label="tokens that a query has beyond the bare source's",
    y_label=metrics_lib.of(figure).description,
  )


def _bars(test, figures):
  """Returns {figure: the arms' bars}."""
  return {
    figure: charts.bars(
      {arm: entry[figure] for arm, entry in test.items()},
      {arm: entry['ci95'][figure] for arm, entry in test.items()},
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


def _rows(results, predictions):
  """Returns what the page's script shows of the test rows, or None without them.

  Args:
    results: that of results.json.
    predictions: {arm: the objects of its predictions, in order}.
  """
  if predictions.keys() != results['test'].keys():
    return None
  other = results_lib.best_other(results, 'loss')
  # First what is to be compared: a screen has no room for all.
  first = [name for name in ('soft', other) if name]
  names = [*first, *(name for name in results['test'] if name not in first)]
  by_arm = [predictions[arm] for arm in names]
  scores = [[row['scores'] for row in rows] for rows in by_arm]
  figures = list(scores[0][0])
  return {
    'arms': names,
    'other': other,
    'figures': [
      {'title': metric.title, 'lower': metric.lower_is_better}
      for metric in map(metrics_lib.of, figures)
    ],
    'rows': [
      {
        'id': row[0]['id'],
        'source': row[0]['source'],
        'target': row[0]['target'],
        # Of several draws their scores are the mean, so all texts are shown.
        'predictions': [
          '\n--- next draw ---\n'.join(arm.get('draws', [arm['prediction']]))
          for arm in row
        ],
        'scores': [[round(arm[name], 4) for name in figures] for arm in row_scores],
      }
      for row, row_scores in zip(
        zip(*by_arm, strict=True), zip(*scores, strict=True), strict=True
      )
    ],
  }
