"""The documentation: its commands run, its links resolve, its tables are the code's."""

import json
import re
import shlex
import subprocess
import sys

import pytest
from conftest import CONFIGS
from conftest import ROWS
from hub import serve
from test_download import SHORT

from jaxprompt import fields
from jaxprompt import flags as flags_lib

ROOT = CONFIGS.parent
PACKAGE = ROOT / 'jaxprompt'
README = (ROOT / 'README.md').read_text()
# In the order of the README's table, so that a command finds what it needs.
PAGES = tuple(re.findall(r'^\| \[.+\]\((docs/\w+\.md)\)', README, re.MULTILINE))
TEXTS = {'README.md': README} | {page: (ROOT / page).read_text() for page in PAGES}
ARCHITECTURE = TEXTS['docs/architecture.md']
_NOT_RUN = 'docs/scaling.md'  # its commands want many devices
# What makes, writes, renames or deletes a path.
_CHANGES_A_PATH = re.compile(
  r'\.(write_text|write_bytes|unlink|rename|mkdir|truncate)\(|rmtree|SummaryWriter|'
  r'CheckpointManager\(|open\([^)]*[\'"][aw]|compilation_cache_dir'
)


def _commands():
  """The lines of shell blocks that call the main command, each once."""
  found = []
  for page, text in TEXTS.items():
    for block in re.findall(r'```sh\n(.*?)```', text, re.DOTALL):
      found += block.splitlines() if page != _NOT_RUN else ()
  return dict.fromkeys(x for x in found if x.startswith('python -m jaxprompt.main '))


def _headings(text):
  """The anchors of a page, as GitHub makes them."""
  titles = re.findall(r'^#+ (.+)$', text, re.MULTILINE)
  return {re.sub(r'[^\w -]', '', title.lower()).replace(' ', '-') for title in titles}


def test_the_two_commands_stand_on_a_line_each():
  for words in ('for task in qa summarization translation', '-m pytest'):
    (line,) = [line for line in README.splitlines() if words in line]
    assert line.startswith('python3 -m venv .venv && .venv/bin/pip install -q -c ')


def test_the_readme_is_short_and_names_every_page():
  assert len(README.splitlines()) <= 200
  assert set(PAGES) == {f'docs/{path.name}' for path in (ROOT / 'docs').glob('*.md')}


def test_every_other_command_runs(hub_root, tmp_path):
  """As a user pastes them, one after the other, with a hub and few rows."""
  commands = _commands()
  modes = {'train', 'eval', 'sweep', 'plan', 'predict', 'export', 'report', 'compare'}
  assert modes == {
    (re.findall(r'--mode=(\w+)', command) or ['train'])[0] for command in commands
  }
  question = ROWS['qa'](1)
  (tmp_path / 'questions.jsonl').write_text(json.dumps(question) + '\n')
  named = {**question, 'prompt': 'questions'}
  (tmp_path / 'rows.jsonl').write_text(json.dumps(named) + '\n')
  (tmp_path / 'my-data').mkdir()
  for split in ('train', 'validation', 'test'):
    rows = [json.dumps(ROWS['qa'](i)) for i in range(3)]
    (tmp_path / 'my-data' / f'{split}.jsonl').write_text('\n'.join(rows))
  (tmp_path / 'configs').symlink_to(CONFIGS)
  short = [f'--config.{name}={value}' for name, value in SHORT.items()]
  with serve(hub_root) as hub:
    for command in commands:
      done = subprocess.run(
        [
          sys.executable,
          *shlex.split(command)[1:],
          *(short if '--config' in command else ()),
        ],
        cwd=tmp_path,
        env=hub.environment(tmp_path / 'home'),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
      )
      assert done.returncode == 0, f'{command}\n{done.stderr}'


def _calls(text):
  """The flags of every call of the command in a page's blocks, launched or not."""
  for line in text.replace('\\\n', ' ').splitlines():
    call = re.search(r'(?:-m jaxprompt\.main|\.sbatch| --) (--.*)', line)
    if call and '`' not in line and '$task' not in line and '[' not in line:
      yield shlex.split(call.group(1))


@pytest.mark.parametrize('page', TEXTS)
def test_every_flag_of_the_documentation_is_read(page, monkeypatch, tmp_path):
  monkeypatch.chdir(ROOT)
  metric = re.search(r'```python\n(def .*?)```', TEXTS['docs/own_task.md'], re.DOTALL)
  (tmp_path / 'my_metrics.py').write_text(metric[1])
  monkeypatch.syspath_prepend(tmp_path)
  calls = list(_calls(TEXTS[page]))
  for flags in calls:
    flags_lib.parse(['jaxprompt', *flags])
  if page == _NOT_RUN:  # where nothing else would notice that none was found
    assert len(calls) == 8


@pytest.mark.parametrize('page', (*TEXTS, 'CONTRIBUTING.md', 'CHANGELOG.md'))
def test_every_link_resolves(page):
  text = (ROOT / page).read_text()
  for link in re.findall(r'\]\((?!https?:)(.+?)\)', text):
    path, _, anchor = link.partition('#')
    target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
    assert target.exists(), link
    if anchor:
      assert anchor in _headings(target.read_text()), link


def test_the_table_of_fields_is_the_configs():
  assert fields.table() in TEXTS['docs/configuration.md']


def test_the_table_of_modes_is_the_commands():
  for mode, names in flags_lib.READS.items():
    flags = ' '.join(f'`--{name}`' for name in names)
    assert re.search(
      rf'^\| `{mode}` \| .+ \| {flags} \|$', TEXTS['docs/configuration.md'], re.M
    ), mode


def test_every_file_that_changes_a_path_is_in_the_table_of_paths():
  table = ARCHITECTURE.partition('## Every path that the program changes')[2]
  named = set(re.findall(r'`([\w/]+\.py)`', table))
  changing = {
    path.relative_to(PACKAGE).as_posix()
    for path in PACKAGE.rglob('*.py')
    if _CHANGES_A_PATH.search(path.read_text())
  }
  assert {'runs/output.py', 'runs/workdir.py', 'training/writer.py'} <= changing
  assert changing <= named
