"""Takes the pictures of docs/: a comparison, a run's report, the served page.

In an environment with jaxprompt[dev] and Chromium, after the README's first command:

  python tools/screenshots.py runs/tiny-qa runs/tiny.html docs/images
"""

import pathlib
import sys

from etils import epath
from playwright import sync_api

from jaxprompt import config as config_lib
from jaxprompt import serve
from jaxprompt.report import report
from jaxprompt.runs import records

CHROMIUM = '/usr/bin/chromium'
SIZE = {'width': 1100, 'height': 900}


def main(workdir, comparison, output):
  workdir = epath.Path(workdir).resolve()
  stored = records.read_config(workdir)['config']
  config = config_lib.single_run(config_lib.complete(stored, str(workdir)))
  output.mkdir(parents=True, exist_ok=True)
  with (
    serve.served(config, workdir, {}, host='127.0.0.1', port=7860) as url,
    sync_api.sync_playwright() as playwright,
  ):
    browser = playwright.chromium.launch(
      executable_path=CHROMIUM,
      args=['--no-sandbox'],  # which Chromium refuses to set up for root
    )
    page = browser.new_page(viewport=SIZE)
    page.goto(report.write(workdir).as_uri())
    page.screenshot(path=output / 'report.png')
    page.goto(comparison.resolve().as_uri())
    page.screenshot(path=output / 'compare.png')
    page.goto(url)
    page.wait_for_timeout(2000)  # gradio draws late
    page.get_by_label('Example from the test split').click()
    page.get_by_role('option').first.click()
    sync_api.expect(page.get_by_label('Source')).not_to_have_value('')
    page.get_by_role('button', name='Answer').click()
    page.get_by_text('tokens/s').last.wait_for()
    page.wait_for_timeout(5000)  # until the last token
    page.screenshot(path=output / 'serve.png', full_page=True)
    browser.close()


if __name__ == '__main__':
  main(sys.argv[1], *map(pathlib.Path, sys.argv[2:]))
