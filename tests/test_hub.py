"""What is said when the hub refuses, fails, or is not to be asked."""

import contextlib
import http.server
import subprocess
import sys
import threading

import datasets
import pytest
from hub import Hub
from hub import serve
from huggingface_hub import constants

from jaxprompt import errors
from jaxprompt import hub


@contextlib.contextmanager
def _answering(status, headers):
  """A hub that answers everything alike; gives its address."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      self.send_response(status)
      for name, value in headers.items():
        self.send_header(name, value)
      self.send_header('Content-Length', '0')
      self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_):
      """Nothing on the tests' standard error."""

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


FIND = """
from jaxprompt import errors
from jaxprompt.lm import files
try:
  print(files.find('a/b', 'generation_config.json'))
except errors.UserError as e:
  print(e)
"""


@pytest.mark.parametrize(
  'status, headers, message',
  [
    (404, {'X-Error-Code': 'EntryNotFound'}, 'None'),
    (500, {}, "model.path 'a/b' cannot be had: the hub ({url}) fails; try again later"),
  ],
)
def test_a_hub_that_fails_has_not_said_that_a_file_is_missing(
  tmp_path, status, headers, message
):
  with _answering(status, headers) as url:
    done = subprocess.run(
      [sys.executable, '-c', FIND],
      env=Hub(url).environment(tmp_path),
      capture_output=True,
      text=True,
      check=True,
    )
  assert done.stdout.startswith(message.format(url=url))


MISSING, GATED = {'X-Error-Code': 'RepoNotFound'}, {'X-Error-Code': 'GatedRepo'}
ANSWERS = [
  (401, {}, 'the hub does not accept the token; log in with `hf auth login`, or corr'),
  (
    401,
    MISSING,
    'is neither a local file or directory nor a dataset on the hub; correct',
  ),
  (403, {}, 'the hub forbids it to this token; log in with `hf auth login` with one'),
  (403, GATED, 'is gated; accept its licence at {url}/datasets/a/b, and log in with'),
  (
    404,
    MISSING,
    'is neither a local file or directory nor a dataset on the hub; correct',
  ),
  (429, {}, 'the hub has had too many requests from here; wait some minutes, or'),
  (500, {}, 'the hub ({url}) fails; try again later, or set HF_HUB_OFFLINE=1 if the'),
  (503, {}, 'the hub ({url}) fails; try again later'),
]


@pytest.fixture
def no_proxy(monkeypatch):
  for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
    monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize('status, headers, message', ANSWERS)
def test_each_refusal_has_its_remedy(monkeypatch, no_proxy, status, headers, message):
  with _answering(status, headers) as url:
    monkeypatch.setattr(constants, 'ENDPOINT', url)
    with pytest.raises(errors.UserError) as e:
      hub.require('a/b', 'data.path')
    # The libraries wrap what stops a download that has begun.
    with (
      pytest.raises(errors.UserError) as wrapped,
      hub.one_line('a/b', 'data.path'),
    ):
      raise OSError('something') from e.value.__cause__
  line = str(e.value)
  assert line.startswith("data.path 'a/b' ") and message.format(url=url) in line
  if status != 404:  # a file that the repository lacks
    assert str(wrapped.value) == line


def test_a_hub_that_is_not_there_is_named(monkeypatch, no_proxy):
  with _answering(200, {}) as url:
    pass
  monkeypatch.setattr(constants, 'ENDPOINT', url)
  with pytest.raises(errors.UserError, match='cannot be reached; give a local dir'):
    hub.require('a/b', 'model.path')


def test_a_name_without_an_owner_is_the_hubs_whole_id(monkeypatch, no_proxy, hub_root):
  with serve(hub_root) as served:
    monkeypatch.setattr(constants, 'ENDPOINT', served.url)
    monkeypatch.setattr(datasets, 'load_dataset', lambda path, subset: (path, subset))
    assert hub.require('gpt2', 'model.path') == 'openai-community/gpt2'
    assert hub.load_dataset('wmt16', 'de-en') == ('wmt/wmt16', 'de-en')


@pytest.mark.parametrize(
  'name, cached, remedy',
  [
    (
      'squad',
      'datasets--rajpurkar--squad',
      "the cache has 'rajpurkar/squad': set data",
    ),
    ('wmt/wmt16', 'datasets--wmt16', "the cache has 'wmt16': set data.path to it"),
    ('squad', 'datasets--squad', 'unset it, or give a local file or directory'),
    (
      'squad',
      'models--rajpurkar--squad',
      'unset it, or give a local file or directory',
    ),
    (
      'squad',
      'datasets--rajpurkar--squad_v2',
      'unset it, or give a local file or directory',
    ),
  ],
)
def test_offline_another_name_of_the_same_is_told(
  monkeypatch, tmp_path, name, cached, remedy
):
  (tmp_path / cached).mkdir()
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
  with pytest.raises(errors.UserError) as e, hub.one_line(name, 'data.path'):
    raise ConnectionError('not in the cache')
  assert f"data.path '{name}' cannot be loaded: not in the cache; HF_HUB" in str(
    e.value
  )
  assert remedy in str(e.value)
