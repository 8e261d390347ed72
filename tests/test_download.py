"""The plain command of a user with a network: model and data from a stand-in hub."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import CHECKPOINT
from conftest import CONFIGS
from conftest import hub_rows
from hub import serve

from jaxprompt.tasks import tasks

# Only what makes the run short or fits it to the tiny model's 192 positions.
SHORT = {
  'data.train_size': 6,
  'data.validation_size': 3,
  'data.test_size': 2,
  'data.max_source_tokens': 90,
  'data.max_target_tokens': 20,
  'eval.max_new_tokens': 3,
  'train.epochs': 1,
}


def _run(task, workdir, environment, **overrides):
  """Runs the command in its own process; returns it with its output."""
  settings = {**SHORT, **overrides}
  return subprocess.run(
    [
      sys.executable,
      '-m',
      'jaxprompt.main',
      f'--config={CONFIGS / task}.py',
      f'--workdir={workdir}',
      *(f'--config.{name}={value}' for name, value in settings.items()),
    ],
    env=environment,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )


@pytest.mark.parametrize('task', tasks.TASKS)
def test_the_plain_command_downloads_model_and_data_and_runs(hub_root, tmp_path, task):
  with serve(hub_root) as hub:
    done = _run(task, tmp_path / 'run', hub.environment(tmp_path / 'home'))
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / 'run' / 'results.json').read_text())
  assert (found['model'], found['test']['soft']['examples']) == ('gpt2', 2)
  lines = (tmp_path / 'run' / 'predictions' / 'soft.jsonl').read_text().splitlines()
  rows = hub_rows(task, 'test')
  if task == 'qa':  # SQuAD has no test split: the second half of validation
    rows = hub_rows(task, 'validation')[4:]
  possible = {tasks.TASKS[task].parse(row, 0).source for row in rows}
  assert {json.loads(line)['source'] for line in lines} < possible


def test_without_the_hub_the_cache_serves_if_it_is_asked_to(hub_root, tmp_path):
  with serve(hub_root) as hub:
    environment = hub.environment(tmp_path / 'home')
    assert _run('qa', tmp_path / 'one', environment).returncode == 0
  gone = _run('qa', tmp_path / 'two', environment)
  assert gone.returncode == 2
  assert (
    'cannot be reached; give a local file or directory, or set HF_HUB_OFFLINE=1'
    in (gone.stderr.splitlines()[-1])
  )
  offline = {**environment, 'HF_HUB_OFFLINE': '1'}
  assert _run('qa', tmp_path / 'two', offline).returncode == 0


@pytest.mark.parametrize(
  'overrides, message',
  [
    (
      {'data.path': 'nosuch'},
      "data.path 'nosuch' is neither a local file or directory",
    ),
    ({'data.subset': 'de-fr'}, "BuilderConfig 'de-fr' not found. Available: ['de-en'"),
    ({'model.path': 'nosuch'}, "model.path 'nosuch' is neither a local directory nor"),
    ({'model.path': 'pickled'}, "model.path 'pickled' has no model.safetensors, "),
  ],
)
def test_what_the_hub_does_not_have_is_named(hub_root, tmp_path, overrides, message):
  pickled = hub_root / 'models' / 'pickled'
  shutil.copytree(CHECKPOINT, pickled, dirs_exist_ok=True)
  (pickled / 'model.safetensors').rename(pickled / 'pytorch_model.bin')
  with serve(hub_root) as hub:
    environment = hub.environment(tmp_path / 'home')
    done = _run('translation', tmp_path / 'run', environment, **overrides)
  assert done.returncode == 2
  assert message in done.stderr.splitlines()[-1]
  assert 'Traceback' not in done.stderr


def test_an_empty_cache_offline_says_what_to_do(hub_root, tmp_path):
  with serve(hub_root) as hub:
    environment = hub.environment(tmp_path / 'home')
  done = _run('qa', tmp_path / 'run', {**environment, 'HF_HUB_OFFLINE': '1'})
  assert done.returncode == 2
  assert (
    'HF_HUB_OFFLINE is set: unset it, or give a local file or directory' in done.stderr
  )
