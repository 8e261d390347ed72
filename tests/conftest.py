"""Fixtures that test files share: the tiny checkpoints, and rows of the tasks."""

import json
import os
import pathlib
import shutil
import tempfile

import hub_data
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from playwright import sync_api

from jaxprompt import config as config_lib
from jaxprompt.lm import loading
from jaxprompt.prompts import batch as batch_lib
from jaxprompt.runs import programs
from jaxprompt.runs import setup

FIXTURES = pathlib.Path(__file__).parent / 'fixtures'
CHECKPOINT = FIXTURES / 'gpt2'
# By their checkpoint in FIXTURES. The first two are those of most tests: learned
# positions, and rotary ones with heads that share keys and values.
FAMILIES = (
  *('gpt2', 'llama', 'llama3', 'gpt_neox', 'mistral', 'qwen2', 'qwen3', 'gemma'),
  *('gemma2', 'gemma3_text', 'smollm3', 'phi3'),
)
# Unlike each other: learned positions; rotary ones; windows, and other norms.
UNLIKE = ('gpt2', 'llama', 'gemma3_text')
# Where the session's processes keep compiled programs: most of them meet the same ones.
_COMPILED = 'JAX_COMPILATION_CACHE_DIR'
CHROMIUM = pathlib.Path('/usr/bin/chromium')
ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = ROOT / 'configs'


def pytest_configure(config):
  if config.option.markexpr != 'accelerator':
    # Of XLA, for the tests and the processes that they start: programs that run once
    # need not be fast. It is read when JAX first looks for devices.
    flags = [os.environ.get('XLA_FLAGS', ''), '--xla_backend_optimization_level=0']
    os.environ['XLA_FLAGS'] = ' '.join(flags)
  if not hasattr(config, 'workerinput'):  # the first process, which starts the others
    os.environ[_COMPILED] = tempfile.mkdtemp(prefix='jaxprompt-tests-')
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
  jax.config.update('jax_compilation_cache_dir', os.environ[_COMPILED])
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


def pytest_unconfigure(config):
  if not hasattr(config, 'workerinput'):
    shutil.rmtree(os.environ[_COMPILED], ignore_errors=True)


def with_devices(count):
  """Returns the environment variables that give a process so many devices."""
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count={count}'
  return {'XLA_FLAGS': flags}


def flax_class(name):
  """Returns transformers' own Flax model of a name, which its line 5 does not have."""
  if not hasattr(transformers, name):
    pytest.skip(f'transformers {transformers.__version__} has no {name}')
  return getattr(transformers, name)


def train_step(lm, layout, *, rows, prompt, tokens, targets):
  """Returns the `Program` of a step with a prefix: the program's B, P, T and N."""
  config = config_lib.default('qa')
  config.train.batch_size, config.prompt.length = rows, prompt
  size = (tokens, targets)
  found = programs.of_run(
    config,
    lm,
    layout,
    setup.abstract_params(lm, layout),
    programs.Sizes(train=size, evaluation=size, source=tokens - targets),
  )
  return next(program for program in found if program.name == 'train step')


@pytest.fixture(scope='module', autouse=True)
def _programs_of_one_module():
  """Lets a module's compiled programs go: thousands exhaust a process's mappings."""
  yield
  jax.clear_caches()


@pytest.fixture(scope='session')
def gpt2():
  """The functions, weights and tokenizer of a random GPT-2 (320 tokens, width 24)."""
  return _load('gpt2')


@pytest.fixture(scope='session', params=UNLIKE)
def frozen(request):
  """The same of several families.

  The Llama has 6 heads and 2 key-value heads, the Gemma 3 a window of 5 tokens in its
  first block and none in its second.
  """
  return _load(request.param)


def _load(name):
  lm, params, tokenizer, _ = loading.load(str(FIXTURES / name), 'float32')
  return lm, jax.device_put(params), tokenizer


@pytest.fixture
def checkpoint_copy(tmp_path):
  """A copy of the tiny checkpoint to spoil."""
  return shutil.copytree(CHECKPOINT, tmp_path / 'checkpoint')


@pytest.fixture
def batch():
  """Three rows of which the last is padding; 9 tokens, at most 4 of them targets."""
  rng = np.random.default_rng(0)
  return batch_lib.Batch(
    input_ids=jnp.asarray(rng.integers(1, 320, (3, 9)), jnp.int32),
    attention_mask=jnp.asarray(np.arange(9) < np.array([[9], [7], [0]])),
    target_positions=jnp.asarray([[5, 6, 7, 8], [5, 6, 1, 1], [1, 1, 1, 1]]),
    loss_mask=jnp.asarray(np.arange(4) < np.array([[4], [2], [0]])),
  )


@pytest.fixture
def soft_prompt():
  """Five virtual tokens."""
  return jax.random.normal(jax.random.key(7), (5, 24))


def _qa(i):
  return {
    'id': f'q{i}',
    'context': f'The steam engine number {i} was improved by James Watt in 17{i:02}.',
    'question': f'Who improved the steam engine number {i}?',
    'answers': {'text': ['James Watt', 'Watt'], 'answer_start': [0, 6]},
  }


def _summarization(i):
  article = f'We present method {i}. ' + 'It learns a model of the world. ' * (
    1 + i % 3
  )
  return {'id': f's{i}', 'article': article, 'highlights': f'Method {i} learns.'}


def _translation(i):
  return {
    'translation': {'en': f'A man and {i} women.', 'de': f'Ein Mann und {i} Frauen.'}
  }


ROWS = {'qa': _qa, 'summarization': _summarization, 'translation': _translation}


def write_data(folder, task, sizes=(12, 5, 7)):
  """Writes JSONL splits of a task, of different sizes, and returns the folder."""
  folder.mkdir(parents=True, exist_ok=True)
  start = 0
  for split, size in zip(('train', 'validation', 'test'), sizes, strict=True):
    rows = [ROWS[task](i) for i in range(start, start + size)]
    lines = ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
    (folder / f'{split}.jsonl').write_text(lines)
    start += size
  return folder


def arguments(task, workdir, data, *overrides, mode='train'):
  """The command's arguments for a run that takes seconds."""
  settings = {
    'model.path': CHECKPOINT,
    'data.path': data,
    'data.max_source_tokens': 90,
    'data.max_target_tokens': 20,
    'eval.max_new_tokens': 4,
    'eval.batch_size': 4,
    'prompt.length': 3,
    'train.batch_size': 4,
    'train.epochs': 2,
  }
  return [
    'jaxprompt',
    f'--config={CONFIGS / task}.py',
    f'--workdir={workdir}',
    f'--mode={mode}',
    *(f'--config.{name}={value}' for name, value in settings.items()),
    *(f'--config.{override}' for override in overrides),
  ]


def hub_rows(task, split, size=8):
  """Rows that differ between the splits."""
  start = {'train': 0, 'validation': 100, 'test': 200}[split]
  return [ROWS[task](i) for i in range(start, start + size)]


@pytest.fixture(scope='session')
def hub_root(tmp_path_factory):
  """A hub's repositories in its own layouts, for `hub.serve`."""
  root = tmp_path_factory.mktemp('hub')
  shutil.copytree(CHECKPOINT, root / 'models' / 'gpt2')
  splits = ('train', 'validation', 'test')
  squad = {s: [{'title': '', **row} for row in hub_rows('qa', s)] for s in splits[:2]}
  hub_data.write_squad(root, squad)
  news = {split: hub_rows('summarization', split) for split in splits}
  hub_data.write_cnn_dailymail(root, news)
  pairs = {split: hub_rows('translation', split) for split in splits}
  hub_data.write_wmt16(root, {'de-en': pairs, 'ro-en': {}})
  return root


@pytest.fixture
def visit():
  """Opens an address in Chromium; at the end no page may have erred or looked outside.

  The function takes the options of a Playwright context, such as `viewport`.
  """
  if not CHROMIUM.exists():
    # On a machine with pip alone the other tests can still pass; CI must have it.
    stop = pytest.fail if os.environ.get('CI') else pytest.skip
    stop(f'{CHROMIUM} is missing; install it: apt-get install chromium')
  errors, outside = [], []

  def note(request):
    if not request.url.startswith(('file:', 'data:', 'blob:', 'http://127.0.0.1:')):
      outside.append(request.url)

  # Started only here: while it runs, the thread counts as inside an event loop, in
  # which Orbax cannot work.
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu']
    )

    def open_page(url, **options):
      page = browser.new_context(**options).new_page()
      page.on('request', note)
      page.on('pageerror', lambda error: errors.append(str(error)))
      page.on(
        'console',
        lambda message: (
          errors.append(message.text) if message.type == 'error' else None
        ),
      )
      page.goto(url)
      return page

    yield open_page
    browser.close()
  assert not errors
  assert not outside
