"""A workdir at gs://, with an emulator of Google Cloud Storage."""

import json
import re
import socket

import fsspec
import pytest
from conftest import arguments
from conftest import write_data
from etils import epath
from gcp_storage_emulator import server
from tensorboardX import record_writer

from jaxprompt import main
from jaxprompt.runs import comparison
from jaxprompt.runs import setup
from jaxprompt.runs import workdir as workdir_lib


@pytest.fixture(scope='module')
def bucket():
  """The address of an empty bucket; all clients of the process use the emulator."""
  with socket.create_server(('127.0.0.1', 0)) as free:
    host, port = free.getsockname()
  emulator = server.create_server(host, port, in_memory=True, default_bucket='bkt')
  emulator.start()
  address = f'http://{host}:{port}'
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('STORAGE_EMULATOR_HOST', address)  # gcsfs and tensorboardX
    patch.setenv('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')  # not emulated
    patch.setitem(fsspec.config.conf, 'gcs', {'token': 'anon'})
    patch.setenv('TENSORSTORE_GCS_HTTP_URL', address)  # Orbax
    patch.setenv('GOOGLE_AUTH_TOKEN_FOR_TESTING', 'any')
    yield 'gs://bkt'
  emulator.stop()
  del record_writer.GCSRecordWriter.__del__  # it uploads once more, and waits


def test_a_run_in_a_bucket_goes_on_and_leaves_all_its_files(
  bucket, tmp_path, monkeypatch
):
  workdir = f'{bucket}/runs/qa'
  data = write_data(tmp_path, 'qa', (12, 5, 3))
  argv = arguments('qa', workdir, data, 'train.epochs=1', 'eval.max_new_tokens=1')
  _build_once(monkeypatch)
  with monkeypatch.context() as patch:
    patch.setattr(comparison, 'compare', _interrupt)
    assert main.main(argv) == 130
  assert main.main(argv) == 0
  found = epath.Path(workdir)
  lines = [json.loads(x) for x in (found / 'metrics.jsonl').read_text().splitlines()]
  assert [x['step'] for x in lines if 'grad_norm' in x] == [1, 2, 3]
  assert [x['step'] for x in lines if 'validation_loss' in x] == [3]
  results = json.loads((found / 'results.json').read_text())
  assert results['test']['soft']['examples'] == 3
  names = {path.name for path in found.iterdir()}
  assert names == {
    'checkpoints',
    'config.json',
    'metrics.jsonl',
    'predictions',
    'report.html',
    'results.json',
    'tensorboard',
    'wordings.jsonl',
  }


def _build_once(monkeypatch):
  """Lets a second run use the model that the first has loaded and compiled."""
  build, built = setup.build, []

  def build_once(*args):
    built.extend([] if built else [build(*args)])
    return built[0]

  monkeypatch.setattr(setup, 'build', build_once)


def _interrupt(*_):
  raise KeyboardInterrupt


def test_a_bucket_that_is_not_there_is_refused(bucket, capsys):
  argv = arguments('qa', 'gs://no-such-bucket/qa', 'data')
  assert main.main(argv) == 2
  line = capsys.readouterr().err.strip()
  assert line.startswith("jaxprompt: --workdir 'gs://no-such-bucket/qa' cannot be")


def test_an_address_that_cannot_be_used_is_refused(monkeypatch):
  with pytest.raises(workdir_lib.errors.UserError, match='expected gs://BUCKET/'):
    workdir_lib.resolve('ftp://host/run')
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  remedy = re.escape("pip install 'jaxprompt[gcs]'")
  with pytest.raises(workdir_lib.errors.UserError, match=remedy):
    workdir_lib.resolve('gs://bkt/run')
