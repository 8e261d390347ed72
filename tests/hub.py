"""A stand-in Hugging Face hub: folders served as repositories on localhost."""

import contextlib
import functools
import hashlib
import http.server
import json
import os
import re
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import NamedTuple

# The hub redirects these short names, older than owners, to the owner's repository.
OWNERS = {
  'gpt2': 'openai-community',
  'squad': 'rajpurkar',
  'cnn_dailymail': 'abisee',
  'wmt16': 'wmt',
}
REPO = '((?:[^/]+/)?[^/]+?)'
API = re.compile(
  f'/api/(models|datasets)/{REPO}(?:/(revision|tree|paths-info)/([^/]+)(?:/(.+))?)?'
)
FILE = re.compile(f'/(datasets/)?{REPO}/resolve/([^/]+)/(.+)')
# What a developer may have set that would lead a process elsewhere.
FOREIGN = re.compile('(HF|HUGGING_?FACE|TRANSFORMERS)_.*|.*_proxy', re.I).fullmatch


class Reply(NamedTuple):
  status: int
  headers: dict[str, str]
  body: bytes = b''


@dataclass
class Hub:
  """A running hub: its address and every request it has had."""

  url: str = ''
  asked: list[str] = field(default_factory=list)

  def environment(self, home: Path) -> dict[str, str]:
    """The environment of a process that asks this hub alone and caches in `home`.

    The hub is also the proxy of everything else, since datasets asks two more hosts
    of its own accord: datasets-server.HOST (answered 404), S3 to count downloads.
    """
    kept = {name: value for name, value in os.environ.items() if not FOREIGN(name)}
    proxies = ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY')
    return {
      **kept,
      **dict.fromkeys(proxies, self.url),
      'HF_ENDPOINT': self.url,
      'HF_HOME': str(home),
      'HF_UPDATE_DOWNLOAD_COUNTS': '0',
    }


@contextlib.contextmanager
def serve(root: Path) -> Iterator[Hub]:
  """Serve ROOT/models/ID and ROOT/datasets/ID until the block ends."""
  hub = Hub()

  # HTTP/1.0, the base's default: no connection outlives the server.
  class Handler(http.server.BaseHTTPRequestHandler):
    def handle_request(self):
      # A client with a proxy sends the whole address, foreign hosts' included.
      target = self.path.removeprefix(hub.url)
      hub.asked.append(f'{self.command} {target}')
      body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
      reply = answer(root, target, self.headers.get('Range', ''), body.decode())
      self.send_response(reply.status)
      for name, value in reply.headers.items():
        self.send_header(name, value)
      self.send_header('Content-Length', str(len(reply.body)))
      self.end_headers()
      if self.command != 'HEAD':
        self.wfile.write(reply.body)

    do_GET = do_HEAD = do_POST = do_CONNECT = handle_request

    def log_message(self, *_):
      """The requests are in `hub.asked`, not on the tests' standard error."""

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    hub.url = f'http://127.0.0.1:{server.server_port}'
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
      yield hub
    finally:
      server.shutdown()


def answer(root: Path, target: str, asked_range: str = '', body: str = '') -> Reply:
  """The hub's reply to a request for `target`, a path with its query."""
  path, _, query = target.partition('?')
  if match := API.fullmatch(path):
    kind, repo, verb, revision, inner = match.groups()
  elif match := FILE.fullmatch(path):
    kind, verb = 'datasets' if match[1] else 'models', 'resolve'
    repo, revision, inner = match.groups()[1:]
  else:
    return _missing('NotFound')
  if repo in OWNERS:
    start = match.start(2)
    moved = f'{target[:start]}{OWNERS[repo]}/{target[start:]}'
    return Reply(307, {'Location': moved})

  owner, _, name = repo.rpartition('/')
  folder = root / kind / (name if owner and OWNERS.get(name) == owner else repo)
  if not folder.is_dir():
    return _missing('RepoNotFound')
  commit = _commit(folder)
  if urllib.parse.unquote(revision or 'main') not in ('main', commit):
    return _missing('RevisionNotFound')

  place = folder / urllib.parse.unquote(inner or '')
  given = {'X-Repo-Commit': commit}
  if verb == 'resolve':
    return _file(place, given, asked_range) if place.is_file() else _no_entry(commit)
  if verb == 'tree':
    if not place.is_dir():
      return _no_entry(commit)
    recursive = urllib.parse.parse_qs(query).get('recursive', [''])[0].lower() == 'true'
    found = sorted(place.rglob('*') if recursive else place.iterdir())
    return _json([_entry(folder, item) for item in found], given)
  if verb == 'paths-info':
    found = [folder / name for name in urllib.parse.parse_qs(body).get('paths', [])]
    return _json([_entry(folder, item) for item in found if item.exists()], given)
  names = [_entry(folder, item)['path'] for item in _files(folder)]
  siblings = [{'rfilename': name} for name in names]
  return _json({'id': repo, 'sha': commit, 'siblings': siblings}, given)


def _missing(code: str, **headers: str) -> Reply:
  return Reply(404, {'X-Error-Code': code, **headers}, b'{"error": "not found"}')


def _no_entry(commit: str) -> Reply:
  # Clients remember that a file is absent from this commit, for use offline.
  return _missing('EntryNotFound', **{'X-Repo-Commit': commit})


def _json(value: object, headers: dict[str, str]) -> Reply:
  kind = {'Content-Type': 'application/json'}
  return Reply(200, {**headers, **kind}, json.dumps(value).encode())


def _file(path: Path, headers: dict[str, str], asked_range: str) -> Reply:
  data = path.read_bytes()
  headers = {**headers, 'ETag': f'"{_digest(path)}"', 'Accept-Ranges': 'bytes'}
  if not (match := re.fullmatch(r'bytes=(\d+)-(\d*)', asked_range)):
    return Reply(200, headers, data)
  start, last = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
  if start > last:
    return Reply(416, {'Content-Range': f'bytes */{len(data)}'})
  headers['Content-Range'] = f'bytes {start}-{last}/{len(data)}'
  return Reply(206, headers, data[start : last + 1])


def _files(folder: Path) -> list[Path]:
  return sorted(item for item in folder.rglob('*') if item.is_file())


def _entry(folder: Path, path: Path) -> dict[str, object]:
  name = path.relative_to(folder).as_posix()
  if path.is_dir():
    return {'type': 'directory', 'path': name, 'oid': _commit(path)}
  size = path.stat().st_size
  return {'type': 'file', 'path': name, 'size': size, 'oid': _digest(path)}


def _commit(folder: Path) -> str:
  held = [(str(item.relative_to(folder)), _digest(item)) for item in _files(folder)]
  return hashlib.sha1(repr(held).encode()).hexdigest()


def _digest(path: Path) -> str:
  stat = path.stat()
  return _digest_of(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache
def _digest_of(path: Path, *_version: int) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()
