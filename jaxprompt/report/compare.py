"""The comparison over runs: many workdirs become one page and one text table."""

import collections
import dataclasses
import json
import statistics

from jaxprompt import errors
from jaxprompt.prompts import arms
from jaxprompt.report import charts
from jaxprompt.report import page
from jaxprompt.runs import records
from jaxprompt.runs import results as results_lib
from jaxprompt.runs import workdir as workdir_lib
from jaxprompt.tasks import tasks

_LABELS = ('task', 'model', 'parameters', 'P')
_OWN_COLUMNS = ('task', 'model.path', 'prompt.length')  # settings that always show


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished run."""

  workdir: object  # an epath
  results: dict  # as in results.json
  settings: dict  # the flattened config, without the seed
  seed: int
  rows: int  # a hash of the test rows' texts

  @property
  def content(self):
    """What a copy of the run has the same of."""
    return json.dumps([self.settings, self.seed, self.results['test']], sort_keys=True)


@dataclasses.dataclass(frozen=True)
class Group:
  """Runs that differ in their seed alone."""

  runs: list[Run]

  @property
  def settings(self):
    return self.runs[0].settings

  @property
  def task(self):
    return self.settings['task']

  @property
  def model(self):
    return self.settings['model.path']

  @property
  def model_parameters(self):
    return self.runs[0].results.get('model_parameters')

  @property
  def seeds(self):
    return sorted(run.seed for run in self.runs)

  @property
  def main_metric(self):
    return tasks.TASKS[self.task].metrics[0]

  def values(self, arm, figure):
    return [run.results['test'][arm][figure] for run in self.runs]

  def gains(self):
    """Returns by how much soft's test loss is below the best other, for each seed."""
    return [
      run.results['test'][results_lib.best_other(run.results, 'loss')]['loss']
      - run.results['test']['soft']['loss']
      for run in self.runs
    ]

  def cell(self, arm, figure):
    """Writes an arm's figure: its interval for one seed, the spread over several."""
    if any(arm not in run.results['test'] for run in self.runs):
      return ''
    values = self.values(arm, figure)
    if len(values) > 1:
      return spread(values)
    low, high = self.runs[0].results['test'][arm]['ci95'][figure]
    return f'{page.number(values[0])} [{page.number(low)}, {page.number(high)}]'


def spread(values):
  """Writes the mean of numbers, and their standard deviation if there are several."""
  mean = page.number(statistics.fmean(values))
  if len(values) == 1:
    return mean
  return f'{mean} ± {page.number(statistics.stdev(values))}'


def write(workdirs, output):
  """Compares runs on one page.

  Args:
    workdirs: epaths, finished runs or not.
    output: the page's path, an epath.

  Returns:
    The comparison as a text table, notes below it.

  Raises:
    UserError: if a directory is no workdir, no run has finished, or runs of one task
      were tested on different rows.
  """
  page.check_output(output)
  runs, notes = _read(workdirs)
  _check_rows(runs)
  groups = _group(runs)
  varying = _varying(groups)
  notes += _gaps(groups)
  header = [*_LABELS, *varying, 'seeds', 'metric']
  names = _arms(runs)
  figures = [f'loss {arm}' for arm in names] + ['gain of soft']
  figures += [f'metric {arm}' for arm in names]
  rows = [_row(group, varying, names) for group in groups]
  workdir_lib.write(
    output,
    page.render(
      'compare.html',
      header=[*header, *figures],
      rows=rows,
      numbers=len(header),  # the column where the figures begin
      runs=runs,
      notes=notes,
      chart=_gain_by_size(groups, varying),
      several_seeds=any(len(group.runs) > 1 for group in groups),
    ),
  )
  return '\n'.join(
    [
      results_lib.aligned([[*header, *figures], *rows]),
      *(f'note: {note}' for note in notes),
    ]
  )


def _arms(runs):
  """Returns the arms of any run, in the registry's order."""
  found = {arm for run in runs for arm in run.results['test']}
  return [arm for arm in arms.ARMS if arm in found]


def _read(workdirs):
  """Returns the `Run`s that have finished, and notes on the others."""
  if not workdirs:
    raise errors.UserError('--mode=compare names no workdir; expected DIR DIR ...')
  runs, notes = [], []
  for workdir in dict.fromkeys(workdirs):
    stored = records.read_config(workdir)
    results = records.read_results(workdir)
    rows = records.read_predictions(workdir, 'soft')
    if results is None or not rows:
      notes.append(f'{workdir} has no results and predictions yet')
      continue
    settings = workdir_lib.flatten(stored['config'])
    seed = settings.pop('seed')
    texts = json.dumps([(row['id'], row['source'], row['target']) for row in rows])
    run = Run(workdir, results, settings, seed, hash(texts))
    same = next((x for x in runs if x.content == run.content), None)
    if same:
      notes.append(f'{workdir} is a copy of {same.workdir}, and left out')
      continue
    again = [x for x in runs if (x.settings, x.seed) == (settings, seed)]
    if again:
      notes.append(f'{workdir} is the run of {again[0].workdir} again, no other seed')
    runs.append(run)
  if not runs:
    raise errors.UserError(
      f'{"; ".join(notes)}: there is nothing to compare; wait for a run to finish, '
      'or run its command again'
    )
  return runs, notes


def _check_rows(runs):
  """Refuses runs of one task over different test rows: their figures do not compare."""
  first = {}
  for run in runs:
    task = run.settings['task']
    other = first.setdefault(task, run)
    if run.rows != other.rows:
      raise errors.UserError(
        f'{str(other.workdir)!r} and {str(run.workdir)!r} are both of {task} and were '
        'tested on different rows; use the same data, its test_size and its '
        'max_source_tokens and max_target_tokens, or compare them apart'
      )


def _group(runs):
  """Returns `Group`s in the order of task, model size, prompt length."""
  groups = collections.defaultdict(list)
  for run in runs:
    groups[json.dumps(run.settings, sort_keys=True)].append(run)
  return sorted(
    map(Group, groups.values()),
    key=lambda group: (
      group.task,
      group.model_parameters or 0,
      group.model,
      group.settings['prompt.length'],
    ),
  )


def _varying(groups):
  """Returns the other settings in which groups of one task differ."""
  found = set()
  for task in {group.task for group in groups}:
    settings = [group.settings for group in groups if group.task == task]
    names = set().union(*settings) - set(_OWN_COLUMNS)
    found |= {name for name in names if len({s.get(name) for s in settings}) > 1}
  return sorted(found)


def _row(group, varying, names):
  """Returns the cells of one line of the table."""
  size = group.model_parameters
  metric = group.main_metric
  return [
    group.task,
    group.model,
    page.count(size) if size else '?',
    str(group.settings['prompt.length']),
    *(str(group.settings.get(name, '')) for name in varying),
    ', '.join(map(str, group.seeds)),
    page.title(metric),
    *(group.cell(arm, 'loss') for arm in names),
    spread(group.gains()),
    *(group.cell(arm, metric) for arm in names),
  ]


def _gaps(groups):
  """Names the tasks that a model of the comparison was not run on."""
  run = {(group.task, group.model) for group in groups}
  return [
    f'no finished run of {model} on {task}'
    for task in sorted({task for task, _ in run})
    for model in sorted({model for _, model in run})
    if (task, model) not in run
  ]


def _gain_by_size(groups, varying):
  """Returns the chart of the gain by model size, or None for fewer than two sizes."""
  series = collections.defaultdict(list)
  for group in groups:
    if group.model_parameters:
      name = ', '.join(
        [
          group.task,
          f'P = {group.settings["prompt.length"]}',
          *(f'{name} = {group.settings.get(name, "")}' for name in varying),
        ]
      )
      gains = group.gains()
      point = charts.Point(
        group.model_parameters, statistics.fmean(gains), min(gains), max(gains)
      )
      series[name].append(point)
  if len({point.x for points in series.values() for point in points}) < 2:
    return None
  return charts.lines(
    [charts.Series(name, points, dots=True) for name, points in series.items()],
    x_label='parameters of the frozen model',
    y_label='test loss of hard less that of soft, nats per token',
    log_x=True,
  )
