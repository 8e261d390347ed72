"""The comparison over runs: many workdirs become one page and one text table."""

import collections
import dataclasses
import json
import os
import statistics
import urllib.parse

from jaxprompt import errors
from jaxprompt.report import charts
from jaxprompt.report import page
from jaxprompt.report import words
from jaxprompt.runs import records
from jaxprompt.runs import results as results_lib
from jaxprompt.runs import workdir as workdir_lib
from jaxprompt.tasks import metrics

_OWN = ('task', 'model.path', 'prompt.length', 'arms')  # settings that always show


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished run."""

  workdir: object  # an epath
  results: dict  # as in results.json
  settings: dict  # the flattened config, without the seed
  seed: int
  rows: int  # a hash of the test rows' texts
  texts: tuple[str, ...]  # that the soft prompt gives to them

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
    return [run.seed for run in self.runs]

  @property
  def arms(self):
    return list(self.runs[0].results['test'])

  @property
  def figures(self):
    """The loss, and the task's main metric."""
    return records.figures_of(self.runs[0].results)[:2]

  @property
  def tuning(self):
    return self.runs[0].results['tuning']

  def name(self, varying):
    """Says which runs they are: the task, the model, and what else differs."""
    size = self.model_parameters
    model = self.model + (f' ({page.count(size)})' if size else '')
    own = [f'{field} = {self.settings.get(field, "")}' for field in varying]
    return ', '.join([self.task, model, f'P = {self.settings["prompt.length"]}', *own])

  def values(self, arm, figure):
    return [run.results['test'][arm][figure] for run in self.runs]

  @property
  def deciding(self):
    """The figure that says which arm is best, see `words.deciding`."""
    return words.deciding(self.runs[0].results)

  def gains(self, figure='loss'):
    """Returns by how much soft is better than the best other arm, for each seed."""
    sign = -1 if metrics.of(figure).lower_is_better else 1
    return [
      sign * results_lib.difference(run.results, figure, 'soft', other)['difference']
      for run in self.runs
      if (other := results_lib.best_other(run.results, figure))
    ]

  def wins(self):
    """Returns whether the soft prompt is the best arm for certain, in all runs."""
    found = [
      results_lib.difference(run.results, self.deciding, 'soft', other)['better']
      for run in self.runs
      for other in run.results['test']
      if other != 'soft'
    ]
    return bool(found) and all(found)

  def cell(self, arm, figure):
    """Writes an arm's figure: its interval for one seed, the spread over several."""
    values = self.values(arm, figure)
    if len(values) > 1:
      return spread(values)
    low, high = self.runs[0].results['test'][arm]['ci95'][figure]
    return f'{page.number(values[0])} [{page.number(low)}, {page.number(high)}]'

  def lead(self, arm, figure):
    """Writes soft's figure less another arm's, and the verdicts of that."""
    if arm == 'soft':
      return '', ''
    found = [
      results_lib.difference(run.results, figure, 'soft', arm) for run in self.runs
    ]
    verdicts = {results_lib.VERDICTS[each['better']] for each in found}
    verdict = verdicts.pop() if len(verdicts) == 1 else results_lib.VERDICTS[None]
    leads = [each['difference'] for each in found]
    if len(leads) > 1:
      sign = '+' if statistics.fmean(leads) > 0 else ''
      return sign + spread(leads), verdict
    return f'{words.signed(leads[0])} {words.interval(found[0]["ci95"])}', verdict

  def bars(self, figure):
    """Returns the arms' bars; of several seeds from the least to the greatest."""

    def ends(arm):
      values = self.values(arm, figure)
      if len(values) > 1:
        return [min(values), max(values)]
      return self.runs[0].results['test'][arm]['ci95'][figure]

    values = {arm: statistics.fmean(self.values(arm, figure)) for arm in self.arms}
    return charts.bars(values, {arm: ends(arm) for arm in self.arms})

  def sentence(self):
    """Says how the soft prompt stands to the best other arm."""
    figure = self.deciding
    other = results_lib.best_other(self.runs[0].results, figure)
    if other is None:
      return ''
    if len(self.runs) == 1:
      return words.sentence(self.runs[0].results, figure, other)
    return (
      f"Over {len(self.runs)} seeds the soft prompt's {words.named(figure)} is "
      f'{self.cell("soft", figure)}, better than that of the best other arm by '
      f'{spread(self.gains(figure))}.'
    )

  def across_seeds(self):
    """Returns `results.across_seeds` of two runs or more."""
    return results_lib.across_seeds(
      [(run.seed, run.results['test']['soft'], run.texts) for run in self.runs]
    )


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
  workdir_lib.write(
    output,
    page.render(
      'compare.html',
      headline=_headline(groups),
      groups=groups,
      varying=varying,
      reports={str(run.workdir): _link(run, output) for run in runs},
      seeds=[(group, group.across_seeds()) for group in groups if len(group.runs) > 1],
      notes=notes,
      by_size=_gains_by(
        groups,
        [*varying, 'prompt.length'],
        lambda group: group.model_parameters,
        'parameters of the frozen model',
      ),
      by_length=_gains_by(
        groups,
        [*varying, 'model.path'],
        lambda group: group.settings['prompt.length'],
        'virtual tokens of the soft prompt',
      ),
    ),
  )
  notes = [f'note: {note}' for note in notes]
  return '\n'.join([_headline(groups), *_table(groups, varying), *notes])


def _headline(groups):
  """Says in how many comparisons the soft prompt wins."""
  won = [group for group in groups if group.wins()]
  by_loss = all(group.deciding == 'loss' for group in groups)
  arm = 'every other arm' + ' in test loss' * by_loss
  what = f'The soft prompt beats {arm}'
  if len(won) == len(groups):
    return f'{what} on {words.listed(sorted({group.task for group in groups}))}'
  if not won:
    return f'In no comparison does the soft prompt beat {arm} for certain'
  return f'{what} in {len(won)} of {len(groups)} comparisons'


def _table(groups, varying):
  """Returns the lines of the text table: one arm of a group each."""
  lines = []
  for group in groups:
    seeds = ', '.join(map(str, group.seeds))
    lines.append(f'{group.name(varying)}; seed{"s" * (len(group.runs) > 1)} {seeds}')
    columns = [(figure, metrics.of(figure).title) for figure in group.figures]
    head = ['  arm']
    for _, title in columns:
      head += [title, f'soft less it, {title}', 'so soft is']
    rows = [[*head, 'tokens a query']]
    for arm in group.arms:
      cells = [f'  {arm}']
      for figure, _ in columns:
        cells += [group.cell(arm, figure), *group.lead(arm, figure)]
      rows.append([*cells, f'{group.tuning[arm]["tokens"]:+,.0f}'])
    lines.append(results_lib.aligned(rows))
  return lines


def _link(run, output):
  """Returns the address of a run's report as seen from the page, '' without one."""
  report = run.workdir / 'report.html'
  apart = ('://' in str(report)) != ('://' in str(output))  # a bucket and a disk
  if apart or not report.exists():
    return ''
  return urllib.parse.quote(os.path.relpath(report, output.parent))


def _read(workdirs):
  """Returns the `Run`s that have finished, and notes on the others."""
  if not workdirs:
    raise errors.UserError('--mode=compare names no workdir; expected DIR DIR ...')
  runs, notes = [], []
  for workdir in dict.fromkeys(workdirs):
    stored = records.read_run(workdir)
    results = records.read_results(workdir)
    rows = records.read_predictions(workdir, 'soft')
    if results is None or not rows:
      notes.append(f'{workdir} has no results and predictions yet')
      continue
    settings = workdir_lib.flatten(records.as_measured(stored, results))
    seed = settings.pop('seed')
    texts = json.dumps([(row['id'], row['source'], row['target']) for row in rows])
    answers = tuple(row['prediction'] for row in rows)
    run = Run(workdir, results, settings, seed, hash(texts), answers)
    same = next((x for x in runs if x.content == run.content), None)
    if same:
      notes.append(f'{workdir} is a copy of {same.workdir}, and left out')
      continue
    alike = settings, seed, run.rows
    again = [x for x in runs if (x.settings, x.seed, x.rows) == alike]
    if again:
      notes.append(
        f'{workdir} is the run of {again[0].workdir} again, no other seed, and left out'
      )
      continue
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
    (Group(sorted(own, key=lambda run: run.seed)) for own in groups.values()),
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
    names = set().union(*settings) - set(_OWN)
    found |= {name for name in names if len({s.get(name) for s in settings}) > 1}
  return sorted(found)


def _gaps(groups):
  """Names the tasks that a model of the comparison was not run on."""
  run = {(group.task, group.model) for group in groups}
  return [
    f'no finished run of {model} on {task}'
    for task in sorted({task for task, _ in run})
    for model in sorted({model for _, model in run})
    if (task, model) not in run
  ]


def _gains_by(groups, others, measure, x_label):
  """Returns the chart of the gain of soft by a number, or None without two of them.

  Args:
    groups: of all tasks.
    others: settings that a line has one value of, besides the task.
    measure: from a group to the number, or None where it is not known.
    x_label: what it is.
  """
  series = collections.defaultdict(list)
  for group in groups:
    x, gains = measure(group), group.gains()
    if x and gains:
      own = [f'{name} = {group.settings.get(name, "")}' for name in others]
      series[', '.join([group.task, *own])].append(
        charts.Point(x, statistics.fmean(gains), min(gains), max(gains))
      )
  if len({point.x for points in series.values() for point in points}) < 2:
    return None
  return charts.lines(
    [charts.Series(name, points, dots=True) for name, points in series.items()],
    x_label=x_label,
    y_label='test loss of the best other arm less that of soft, nats per token',
    log_x=True,
  )
