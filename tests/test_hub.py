"""The stand-in hub, asked by the real libraries."""

import http.client
import json
import subprocess
import sys
from pathlib import Path

import hub_data
import pytest
from hub import Hub
from hub import serve

SQUAD = {
  split: [
    {
      'id': f'{split}-{number}',
      'title': 'Fixture',
      'context': f'The answer is {number}.',
      'question': 'What is the answer?',
      'answers': {'text': [str(number)], 'answer_start': [14]},
    }
    for number in range(3)
  ]
  for split in ('train', 'validation')
}
NEWS = {
  split: [{'article': f'A long {split}.', 'highlights': f'A {split}.', 'id': '0'}]
  for split in ('train', 'validation', 'test')
}
PAIRS = {
  pair: {
    split: [{'translation': {pair[:2]: f'{split} {pair}', 'en': split}}]
    for split in ('train', 'validation', 'test')
  }
  for pair in ('cs-en', 'de-en')
}
LOAD = """
import json
import datasets
from transformers import AutoTokenizer, FlaxGPT2LMHeadModel

tokenizer = AutoTokenizer.from_pretrained('gpt2')
# Without _do_init a random model is first built op by op, which takes seconds.
model, params = FlaxGPT2LMHeadModel.from_pretrained('gpt2', _do_init=False)
news = datasets.load_dataset('cnn_dailymail', '3.0.0')
pairs = datasets.load_dataset('wmt16', 'de-en')
print(json.dumps({
  'text': tokenizer.decode(tokenizer('The answer')['input_ids']),
  'weight': float(params['transformer']['wpe']['embedding'][0, 0]),
  'squad': datasets.load_dataset('squad', split='train').to_list(),
  'news': {split: rows.to_list() for split, rows in news.items()},
  'pairs': {split: rows.to_list() for split, rows in pairs.items()},
}))
"""
LIST = """
import json
from huggingface_hub import HfApi

api = HfApi()
info = api.model_info('tiny')
paths = lambda items: [item.path for item in items]
print(json.dumps({
  'siblings': [file.rfilename for file in info.siblings],
  'same': api.model_info('tiny', revision=info.sha).sha == info.sha,
  'tree': paths(api.list_repo_tree('tiny')),
  'whole_tree': paths(api.list_repo_tree('tiny', recursive=True)),
  'found': paths(api.get_paths_info('tiny', ['letters', 'deep', 'absent'])),
}))
"""


def write_gpt2(folder: Path) -> float:
  """Write a tiny random GPT-2 and return one of its weights."""
  import jax
  import numpy as np
  from tokenizers import ByteLevelBPETokenizer
  from transformers import FlaxGPT2LMHeadModel
  from transformers import GPT2Config
  from transformers import GPT2TokenizerFast

  trained = ByteLevelBPETokenizer()
  trained.train_from_iterator(
    ['The answer is 1.'], vocab_size=300, special_tokens=['<|endoftext|>']
  )
  folder.mkdir(parents=True)
  trained.save_model(str(folder))
  files = [str(folder / name) for name in ('vocab.json', 'merges.txt')]
  GPT2TokenizerFast(*files).save_pretrained(folder)
  size = {'n_positions': 16, 'n_embd': 8, 'n_layer': 1, 'n_head': 2}
  config = GPT2Config(vocab_size=300, **size)
  model = FlaxGPT2LMHeadModel(config, _do_init=False)
  draw = np.random.default_rng(0).standard_normal
  params = jax.tree.map(lambda leaf: draw(leaf.shape, 'f'), model.params_shape_tree)
  model.save_pretrained(folder, params=params, safe_serialization=True)
  return float(params['transformer']['wpe']['embedding'][0, 0])


def run(code: str, environment: dict[str, str]) -> object:
  """What `code` prints as JSON, run by a new interpreter in `environment`."""
  done = subprocess.run(
    [sys.executable, '-c', code],
    env=environment,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert not done.returncode, done.stderr
  return json.loads(done.stdout)


def test_libraries_load_what_is_served_and_again_from_the_cache(tmp_path):
  root, home = tmp_path / 'hub', tmp_path / 'home'
  weight = write_gpt2(root / 'models/gpt2')
  hub_data.write_squad(root, SQUAD)
  hub_data.write_cnn_dailymail(root, NEWS)
  hub_data.write_wmt16(root, PAIRS)
  served = {
    'text': 'The answer',
    'weight': weight,
    'squad': SQUAD['train'],
    'news': NEWS,
    'pairs': PAIRS['de-en'],
  }
  with serve(root) as hub:
    assert run(LOAD, hub.environment(home)) == served
  downloads = [
    line for line in hub.asked if line.startswith('GET') and '.parquet' in line
  ]
  assert len(downloads) == 2 + 3 + 3  # each split of a configuration, once
  assert not [line for line in hub.asked if line.startswith('CONNECT')]
  assert run(LOAD, {**hub.environment(home), 'HF_HUB_OFFLINE': '1'}) == served


def test_the_client_lists_a_repository(hub, tmp_path):
  listed = run(LIST, hub.environment(tmp_path / 'home'))
  assert listed == {
    'siblings': ['deep/more', 'letters'],
    'same': True,
    'tree': ['deep', 'letters'],
    'whole_tree': ['deep', 'deep/more', 'letters'],
    'found': ['letters', 'deep'],
  }


def request(hub: Hub, method: str, path: str, **headers: str):
  connection = http.client.HTTPConnection(hub.url.removeprefix('http://'))
  connection.request(method, path, headers=headers)
  reply = connection.getresponse()
  return reply, reply.read()


@pytest.fixture
def hub(tmp_path):
  (tmp_path / 'models/tiny/deep').mkdir(parents=True)
  (tmp_path / 'models/tiny/letters').write_text('abcdef')
  (tmp_path / 'models/tiny/deep/more').write_text('x')
  with serve(tmp_path) as hub:
    yield hub


@pytest.mark.parametrize(
  ('path', 'code'),
  [
    ('/tiny/resolve/main/absent', 'EntryNotFound'),
    ('/api/models/tiny/tree/main/absent', 'EntryNotFound'),
    ('/tiny/resolve/v9/letters', 'RevisionNotFound'),
    ('/absent/resolve/main/letters', 'RepoNotFound'),
    ('/api/datasets/tiny', 'RepoNotFound'),
    ('/api/whoami-v2', 'NotFound'),
    ('http://elsewhere.invalid/tiny/resolve/main/letters', 'NotFound'),
  ],
)
def test_what_is_absent_is_named_by_its_error_code(hub, path, code):
  reply, _ = request(hub, 'GET', path)
  assert (reply.status, reply.headers['X-Error-Code']) == (404, code)


@pytest.mark.parametrize(
  ('asked', 'status', 'body'),
  [
    ('', 200, b'abcdef'),
    ('bytes=2-3', 206, b'cd'),
    ('bytes=4-', 206, b'ef'),
    ('bytes=4-99', 206, b'ef'),
    ('bytes=6-', 416, b''),
  ],
)
def test_a_range_gives_its_bytes(hub, asked, status, body):
  reply, given = request(hub, 'GET', '/tiny/resolve/main/letters', Range=asked)
  assert (reply.status, given) == (status, body)


def test_a_head_gives_length_and_identity_without_the_body(hub):
  reply, body = request(hub, 'HEAD', '/tiny/resolve/main/letters')
  assert reply.headers['Content-Length'] == '6'
  assert len(reply.headers['X-Repo-Commit']) == 40
  assert reply.headers['ETag']
  assert body == b''
