"""The documentation as a site: it builds without a warning, and its links resolve."""

import html.parser
import subprocess
import sys
import urllib.parse

import pytest
from conftest import ROOT

import jaxprompt as jp


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
  """{path: `_Page`} of the built site."""
  output = tmp_path_factory.mktemp('site')
  command = [sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', 'docs', output]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return {path.resolve(): _Page(path.read_text()) for path in output.glob('*.html')}


class _Page(html.parser.HTMLParser):
  """What a page links to, and the anchors that it has."""

  def __init__(self, text):
    super().__init__()
    self.links, self.anchors = set(), {''}
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    given = dict(attrs)
    self.anchors.add(given.get('id'))
    self.links |= {given[name] for name in ('href', 'src') if given.get(name)}


def test_every_link_inside_the_site_resolves(pages):
  inside = 0
  for path, page in pages.items():
    for link in map(urllib.parse.urlparse, page.links):
      if link.scheme:  # elsewhere
        continue
      target = (path.parent / link.path).resolve() if link.path else path
      assert target.exists(), (path.name, link.path)
      if target in pages:
        assert link.fragment in pages[target].anchors, (path.name, link)
        inside += 1
  assert inside > 100


def test_the_reference_has_every_public_name(pages):
  (page,) = (page for path, page in pages.items() if path.name == 'api.html')
  assert {f'jaxprompt.{name}' for name in jp.__all__} <= page.anchors
