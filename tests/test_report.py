"""report.html: what it says of a run, and how the page behaves in a browser."""

import json
import re

import pytest
import workdirs
from etils import epath
from playwright import sync_api

from jaxprompt import errors
from jaxprompt import main
from jaxprompt.report import charts
from jaxprompt.report import page as page_lib
from jaxprompt.report import report
from jaxprompt.report import words
from jaxprompt.runs import workdir as workdir_lib
from jaxprompt.tasks import metrics

HOSTILE = '</script><script>window.hacked = 1</script><img src=x onerror="hacked = 1">'


def _page(folder):
  return report.write(epath.Path(folder)).read_text()


def _url(folder):
  return report.write(epath.Path(folder)).as_uri()


def _results(width=0.1, **losses):
  """Results with given losses, differences good to `width`."""
  test = {
    arm: {
      'loss': loss,
      'squad_f1': 10 * loss,
      'examples': 1234,
      'ci95': {
        'loss': [loss - 0.1, loss + 0.1],
        'squad_f1': [10 * loss - 1, 10 * loss + 1],
      },
    }
    for arm, loss in losses.items()
  }
  return {'test': test, 'differences': workdirs.differences(test, width)}


def test_findings_are_paired_differences_with_the_best_other_arm_and_with_none():
  found = words.findings(_results(none=3.5, hard=2.15, soft=2.0), 'squad_f1')
  assert found == [
    "The soft prompt's test loss is better than with the hard prompt: 2.000 against "
    '2.150, a difference of -0.150 [-0.250, -0.050] over 1,234 test rows.',
    "The soft prompt's test loss is better than with no prompt: 2.000 against 3.500, a "
    'difference of -1.500 [-1.600, -1.400] over 1,234 test rows.',
    "The soft prompt's SQuAD F1 is worse than with no prompt: 20.00 against 35.00, a "
    'difference of -15.00 [-15.10, -14.90] over 1,234 test rows.',
  ]


def test_a_difference_whose_interval_holds_0_is_called_undecided():
  results = _results(width=0.2, hard=2.15, soft=2.0)
  assert words.sentence(results, 'loss', 'hard') == (
    'In test loss the soft prompt and the hard prompt cannot be told apart: 2.000 '
    'against 2.150, a difference of -0.150 [-0.350, +0.050] over 1,234 test rows.'
  )


@pytest.mark.parametrize(
  'losses, expected',
  [
    ((3.5, 2.9, 2.0), 'The soft prompt has the lowest test loss'),
    ((3.5, 2.0, 2.9), 'The hard prompt has the lowest test loss'),
    ((1.0, 2.0, 2.9), 'No prompt has the lowest test loss'),
    (
      (3.5, 2.05, 2.0),
      'No arm is surely ahead: the soft prompt and the hard prompt are level in test '
      'loss',
    ),
  ],
)
def test_the_headline_names_the_arm_of_the_lowest_loss_if_it_is_decided(
  losses, expected
):
  results = _results(**dict(zip(('none', 'hard', 'soft'), losses, strict=True)))
  assert words.headline(results) == expected


def test_the_headline_of_a_classification_is_about_its_first_metric():
  results = _results(none=3.5, hard=2.15, soft=2.0)  # squad_f1 is ten times the loss
  results['test']['soft']['confusion'] = [[1, 0], [0, 1]]
  expected = 'No prompt has the best SQuAD F1 on the test rows'
  assert words.headline(results) == expected


def test_a_prompt_that_is_compared_with_nothing_is_no_best():
  assert words.headline(_results(soft=2.0)) == 'The soft prompt alone: test loss 2.000'


def _interrupted(tmp_path):
  """Returns the workdir of a run that has been killed after two of four epochs."""
  folder = workdirs.write_run(tmp_path / 'run', epochs=4, finished=False)
  lines = (folder / 'metrics.jsonl').read_text().splitlines(keepends=True)
  (folder / 'metrics.jsonl').write_text(''.join(lines[: len(lines) // 2]))
  return folder


def test_a_run_that_is_trained_and_not_tested_is_no_unfinished_one(tmp_path):
  page = _page(workdirs.write_run(tmp_path / 'run', finished=False))
  assert 'trained, and not tested yet' in page and '--mode=eval' in page


def test_an_arm_of_several_draws_shows_the_texts_of_all(tmp_path):
  folder = workdirs.write_run(tmp_path / 'run', 'qa')
  path = folder / 'predictions' / 'hard.jsonl'
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  rows[0]['draws'] = ['the first text', 'the second text']
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  assert 'the first text\\n--- next draw ---\\nthe second text' in _page(folder)


@pytest.mark.parametrize('task', ['qa', 'summarization', 'translation'])
def test_the_page_holds_what_the_workdir_knows(tmp_path, task):
  folder = workdirs.write_run(tmp_path / 'run', task)
  page = _page(folder)
  results = json.loads((folder / 'results.json').read_text())
  for text in (
    'The soft prompt has the lowest test loss',
    'gpt2 (124M parameters, frozen)',
    results['prompt']['name'],
    'best: epoch 3',
    'train.learning_rate',
    'cpu:0 cpu',
    '12.3% of the tokens',
    *results['signatures'].values(),
  ):
    assert text in page
  for figure in results['test']['soft']['ci95']:
    assert f'aria-label="{metrics.of(figure).title}"' in page
  assert 'Nearest vocabulary tokens' not in page


def test_nearest_tokens_show_where_a_run_has_them(tmp_path):
  folder = workdirs.write_run(tmp_path / 'run')
  results = json.loads((folder / 'results.json').read_text())
  results['nearest_tokens'] = [
    {
      'tokens': [' <b>', ' answer'],
      'cosines': [0.9, 0.5],
      'relative_norm': 1.25,
      'drift': 0.375,
    },
    {'tokens': [' question', '\n'], 'cosines': [0.7, 0.6], 'relative_norm': 2.0},
  ]
  (folder / 'results.json').write_text(json.dumps(results))
  page = _page(folder)
  assert '<code> &lt;b&gt;</code> 0.900' in page
  assert '1.250' in page and '0.375' in page
  assert 'Nearest vocabulary tokens' in page


def test_the_page_names_no_address_outside_itself(tmp_path):
  page = _page(workdirs.write_run(tmp_path / 'run'))
  assert not re.findall(
    r'https?:|url\(|@import|<link(?! rel="icon" href="data:,")', page
  )


def test_a_run_that_has_not_finished_shows_how_far_it_is(tmp_path):
  page = _page(_interrupted(tmp_path))
  assert 'This run has not finished' in page
  assert 'Epochs done: 2 of 4.' in page
  assert 'Loss while training' in page
  assert 'id="rows"' not in page


def test_a_run_that_has_only_begun_has_a_page(tmp_path):
  folder = workdirs.write_run(tmp_path / 'run', finished=False)
  (folder / 'metrics.jsonl').unlink()
  assert 'Epochs done: 0 of 4.' in _page(folder)


def test_a_line_that_is_still_being_written_is_left_out(tmp_path):
  path = epath.Path(tmp_path / 'metrics.jsonl')
  path.write_text('{"text": "a\u2028b"}\n{"step": 2, "tra')
  assert workdir_lib.read_jsonl(path) == [{'text': 'a\u2028b'}]
  path.write_text('{"step": 1}\nnonsense\n')
  with pytest.raises(errors.UserError, match=r'metrics.jsonl line 2 cannot be read'):
    workdir_lib.read_jsonl(path)


def test_the_report_mode_needs_no_config(tmp_path, capsys):
  folder = workdirs.write_run(tmp_path / 'run')
  assert main.main(['jaxprompt', '--mode=report', f'--workdir={folder}']) == 0
  assert capsys.readouterr().out == f'report: {folder / "report.html"}\n'
  assert (folder / 'report.html').exists()


def test_a_report_of_what_is_no_workdir_is_one_line_with_status_2(tmp_path, capsys):
  assert main.main(['jaxprompt', '--mode=report', f'--workdir={tmp_path}']) == 2
  line = capsys.readouterr().err
  assert line == (
    f'jaxprompt: {str(tmp_path)!r} has no config.json; expected the workdir of a run\n'
  )
  assert not list(tmp_path.iterdir())


def test_bars_of_figures_below_zero_begin_at_their_end():
  values, intervals = {'none': -1.0, 'soft': 3.0}, {'none': [-2, 0], 'soft': [2, 4]}
  none, soft = charts.bars(values, intervals)
  unit = soft.length / 3
  ends = [none.start, none.length, none.low, none.high, soft.start, soft.low, soft.high]
  assert ends == pytest.approx([unit * x for x in (1, 1, 0, 2, 2, 4, 6)])


def test_a_long_curve_is_averaged_and_keeps_its_range():
  points = [charts.Point(x, (x % 2) * 2) for x in range(100_000)]
  found = charts.lines([charts.Series('loss', points)], x_label='', y_label='')
  (series,) = found.series
  assert len(series.points) <= 400
  assert found.x_ticks[-1][1] == '80,000'


@pytest.mark.parametrize('low, high', [(0, 1), (-3.2, 8e-3), (5, 5), (1e-9, 2e-9)])
def test_ticks_are_few_and_inside_the_range(low, high):
  ticks = charts._ticks(low, high)
  assert 1 <= len(ticks) <= 7
  assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in ticks)


def _rows(page):
  """The texts of the source cells that show."""
  return page.locator('#rows tbody tr td:first-child').all_inner_texts()


def test_search_sort_and_pages_work_on_5000_rows_without_lag(tmp_path, visit):
  folder = workdirs.write_run(tmp_path / 'run', rows=5000)
  page = visit(_url(folder))
  place = page.locator('#place')
  assert place.inner_text() == 'rows 1 to 10 of 5,000'
  page.get_by_role('button', name='Next').click()
  assert place.inner_text() == 'rows 11 to 20 of 5,000'
  assert 'Source 10 tells' in _rows(page)[0]

  page.get_by_label('Search').fill('ENGINE number 4711.')
  sync_api.expect(place).to_have_text('rows 1 to 1 of 1')
  page.get_by_label('Search').fill('no such words')
  sync_api.expect(place).to_have_text('no row holds that text')
  page.get_by_label('Search').fill('')
  sync_api.expect(place).to_have_text('rows 1 to 10 of 5,000')

  page.locator('#figure').select_option('SQuAD F1')
  page.locator('#sort').select_option('where they differ most')
  scores = {
    arm: [
      json.loads(line)['scores']['squad_f1']
      for line in (folder / 'predictions' / f'{arm}.jsonl').read_text().splitlines()
    ]
    for arm in ('hard', 'soft')
  }
  leads = [
    soft - hard for hard, soft in zip(scores['hard'], scores['soft'], strict=True)
  ]
  furthest = max(range(5000), key=lambda i: abs(leads[i]))
  assert _rows(page)[0].endswith(f'row-{furthest}')
  page.locator('#sort').select_option('where the other is ahead most')
  assert _rows(page)[0].endswith(f'row-{min(range(5000), key=lambda i: leads[i])}')
  milliseconds = page.evaluate("""() => {
    const sort = document.getElementById('sort'), began = performance.now();
    for (const value of ['none', 'differ', 'soft']) {
      sort.value = value;
      sort.onchange();
    }
    document.body.getBoundingClientRect();
    return performance.now() - began;
  }""")
  assert milliseconds < 1500


def test_hostile_rows_show_as_text(tmp_path, visit):
  def spoil(rows):
    rows[0]['source'] = HOSTILE + '\u2028 {{ 7 * 7 }}'
    rows[0]['prediction'] = '<!--<script>'
    rows[1]['target'] = 'x' * 200_000

  page = visit(_url(workdirs.write_run(tmp_path / 'run', edit=spoil)))
  assert HOSTILE + '\u2028 {{ 7 * 7 }}' in page.locator('#rows tbody').text_content()
  assert '<!--<script>' in page.locator('#rows td.soft-cell').first.text_content()
  assert page.evaluate('window.hacked') is None
  assert page.locator('#rows img').count() == 0
  more = page.get_by_role('button', name='show all 200,000 characters')
  more.click()
  assert 'x' * 200_000 in page.locator('#rows tbody').text_content()
  assert page.locator('#rows').bounding_box()['width'] < 1300


def test_the_page_fits_a_phone_and_follows_the_colour_scheme(tmp_path, visit):
  model = '/checkpoints/' + 40 * 'long'
  url = _url(workdirs.write_run(tmp_path / 'run', model=model))
  phone = visit(url, viewport={'width': 390, 'height': 844})
  assert phone.evaluate('document.documentElement.scrollWidth') == 390
  background = 'getComputedStyle(document.body).backgroundColor'
  dark = visit(url, color_scheme='dark')
  assert phone.evaluate(background) == 'rgb(246, 247, 249)'
  assert dark.evaluate(background) == 'rgb(15, 18, 22)'
  dark.emulate_media(media='print')
  assert dark.evaluate(background) == 'rgb(255, 255, 255)'


def test_all_but_the_table_works_without_javascript(tmp_path, visit):
  url = _url(workdirs.write_run(tmp_path / 'run'))
  page = visit(url, java_script_enabled=False)
  assert page.get_by_role(
    'heading', name='The soft prompt has the lowest test loss'
  ).is_visible()
  assert page.get_by_role('img', name='Loss while training').is_visible()
  assert page.get_by_text('This table needs JavaScript').is_visible()


@pytest.mark.parametrize(
  'number, text',
  [(124_439_808, '124M'), (999_885_952, '1B'), (999_600, '1M'), (999, '999')],
)
def test_a_count_is_written_in_three_digits(number, text):
  assert page_lib.count(number) == text
