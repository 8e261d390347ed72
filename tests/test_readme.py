"""The README: its commands run, its table of fields is the config's."""

import json
import re
import subprocess
import sys

from conftest import CONFIGS
from conftest import ROWS
from hub import serve
from test_download import SHORT

from jaxprompt import command
from jaxprompt import config as config_lib

ROOT = CONFIGS.parent
README = (ROOT / 'README.md').read_text()


def _commands():
  """The lines of the README's shell blocks that call the main command."""
  blocks = re.findall(r'```sh\n(.*?)```', README, re.DOTALL)
  lines = [line for block in blocks for line in block.splitlines()]
  return [line for line in lines if line.startswith('python -m jaxprompt.main ')]


def test_the_two_commands_stand_on_a_line_each():
  for words in ('for task in qa summarization translation', '-m pytest'):
    (line,) = [line for line in README.splitlines() if words in line]
    assert line.startswith('python3 -m venv .venv && .venv/bin/pip install -q -c ')


def test_every_other_command_runs(hub_root, tmp_path):
  """As a user pastes them, one after the other, with a hub and few rows."""
  commands = _commands()
  assert {'train', 'eval', 'sweep', 'predict', 'export', 'report', 'compare'} == {
    (re.findall(r'--mode=(\w+)', command) or ['train'])[0] for command in commands
  }
  question = ROWS['qa'](1)
  (tmp_path / 'questions.jsonl').write_text(json.dumps(question) + '\n')
  named = {**question, 'prompt': 'questions'}
  (tmp_path / 'rows.jsonl').write_text(json.dumps(named) + '\n')
  (tmp_path / 'configs').symlink_to(CONFIGS)
  short = [f'--config.{name}={value}' for name, value in SHORT.items()]
  with serve(hub_root) as hub:
    for command in commands:
      done = subprocess.run(
        [
          sys.executable,
          *command.split()[1:],
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


def test_the_page_on_scaling_uses_flags_that_there_are(monkeypatch):
  """Read, not run: its commands want many devices."""
  monkeypatch.chdir(ROOT)
  page = (ROOT / 'docs' / 'scaling.md').read_text()
  commands = [
    [word for word in line.split() if word.startswith(('--config', '--workdir='))]
    for line in page.replace('\\\n', ' ').splitlines()
    if ' --config=' in line
  ]
  assert len(commands) == 7
  for flags in commands:
    command.parse(['jaxprompt', *flags])
  for path in re.findall(r'\]\((\.\./.+?)\)', page):
    assert (ROOT / 'docs' / path).exists(), path


def test_the_table_of_fields_is_the_configs():
  assert config_lib.table() in README


def _floors():
  """{module: floor} by the README's table."""
  floors = {}
  for floor, files in re.findall(r'^\| (\d) \| (.+?) \|', README, re.MULTILINE):
    floors |= {name: int(floor) for name in re.findall(r'`(\w+)\.py`', files)}
  return floors


def test_every_file_has_its_floor_and_imports_only_from_lower_ones():
  floors = _floors()
  for path in (ROOT / 'jaxprompt').glob('*.py'):
    if path.stem in ('__init__', 'errors'):  # errors: below all floors
      continue
    for imported in re.findall(r'^from jaxprompt import (\w+)', path.read_text(), re.M):
      assert floors.get(imported, -1) < floors[path.stem], (path.stem, imported)
