"""What is installed: the sdist and its wheel hold all that the command needs."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest
from conftest import ROOT

PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
# All that a build reads.
_SOURCES = ('jaxprompt', 'pyproject.toml', 'README.md', 'LICENSE')
_FEW = [
  *('--config.data.train_size=8', '--config.data.validation_size=4'),
  *('--config.data.test_size=4', '--config.train.epochs=1'),
  *('--config.prompt.length=2', '--config.arms=soft'),
]


def _build(what, source, output):
  """Builds an sdist or a wheel as pip does; returns its path."""
  code = f'from setuptools import build_meta as b; b.build_{what}({str(output)!r})'
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=source, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  suffix = {'sdist': '.tar.gz', 'wheel': '.whl'}[what]
  (path,) = output.glob(f'*{suffix}')
  return path


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """The wheel that is built of the sdist alone."""
  folder = tmp_path_factory.mktemp('package')
  source = folder / 'checkout'
  source.mkdir()
  for name in _SOURCES:
    copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
    copy(ROOT / name, source / name)
  with tarfile.open(_build('sdist', source, folder)) as archive:
    archive.extractall(folder / 'sdist', filter='data')
  (unpacked,) = (folder / 'sdist').iterdir()
  return _build('wheel', unpacked, folder)


@pytest.fixture(scope='module')
def site(wheel):
  """A folder that the wheel is installed in, without what it depends on."""
  folder = wheel.parent / 'site'
  pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', 'install']
  options = ['-q', '--no-index', '--no-deps', '--target', folder]
  subprocess.run([*pip, *options, wheel], check=True)
  return folder


def _run(site, folder, *command):
  environment = {**os.environ, 'PYTHONPATH': str(site)}
  return subprocess.run(
    command, cwd=folder, env=environment, capture_output=True, text=True
  )


def test_the_wheel_holds_every_file_of_the_package(wheel):
  expected = {
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / 'jaxprompt').rglob('*')
    if path.is_file() and path.suffix != '.pyc'
  }
  names = set(zipfile.ZipFile(wheel).namelist())
  assert 'jaxprompt/py.typed' in expected
  assert names >= expected
  others = {name for name in names - expected if '.dist-info/' not in name}
  assert not others


def test_the_installed_command_runs_outside_the_checkout(site, tmp_path):
  command = site / 'bin' / 'jaxprompt'
  helped = _run(site, tmp_path, command, '--help')
  assert helped.returncode == 0 and '--config=FILE.py[:PRESET]' in helped.stdout
  given = ['--config=text:tiny', '--workdir=run', *_FEW]
  done = _run(site, tmp_path, command, *given)
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'run' / 'report.html').exists()
  code = 'import jaxprompt as jp; print(jp.__file__, jp.load_model("tiny"))'
  found = _run(site, tmp_path, sys.executable, '-c', code)
  assert found.stdout.startswith(f'{site}/jaxprompt/__init__.py Model('), found.stderr


def test_the_citation_is_of_this_version():
  text = (ROOT / 'CITATION.cff').read_text()
  assert re.search(r'^version: (.+)$', text, re.M)[1] == PROJECT['version']
  assert re.search(r'^license: (.+)$', text, re.M)[1] == PROJECT['license']
