"""The benchmarks run, and what they count holds: nothing here is timed."""

import contextlib
import importlib
import io
import json
import os
import pathlib
import sys
import types

import conftest
import jax.numpy as jnp
import pytest
import transformers

from jaxprompt import main
from jaxprompt.devices import compiled
from jaxprompt.devices import devices
from jaxprompt.lm import loading
from jaxprompt.lm import model
from jaxprompt.lm.families import gpt2

FOLDER = pathlib.Path(__file__).parents[1] / 'benchmarks'


@pytest.fixture
def benchmark(monkeypatch):
  """Imports a file of the benchmarks, which find each other as scripts do."""
  monkeypatch.syspath_prepend(FOLDER)
  return importlib.import_module


@pytest.fixture
def peer(tmp_path):
  """An interpreter that runs our side where PEFT's is asked for."""
  python = tmp_path / 'peer' / 'bin' / 'python'
  python.parent.mkdir(parents=True)
  python.write_text(
    f'#!/bin/bash\nexec {sys.executable} "${{@/side_peft/side_jaxprompt}}"\n'
  )
  python.chmod(0o755)
  return python


def gpt2_step(config, **sizes):
  """Returns a GPT-2's functions and its train step, traced."""
  layout = devices.layout('jit', -1, 1)
  spec = gpt2.read_config('', config.to_diff_dict())
  lm = model.LanguageModel(spec, jnp.float32).on(layout.platform, 'highest')
  return lm, conftest.train_step(lm, layout, **sizes).traced()


@pytest.mark.perf
def test_a_steps_operations_are_near_the_least_needed(benchmark):
  rows, tokens, targets, prompt = 4, 96, 16, 8
  config = transformers.GPT2Config(n_layer=3, n_embd=256, n_head=4, vocab_size=3000)
  lm, step = gpt2_step(config, rows=rows, tokens=tokens, targets=targets, prompt=prompt)
  least = benchmark('operations').least(lm, rows, tokens, targets, prompt)
  # Some 4% of these are the norms and activations of such narrow blocks.
  assert least < step.lower().compile().cost_analysis()['flops'] < 1.1 * least
  counted = compiled.operations(step, devices.layout('jit', -1, 1))
  assert least < counted < 1.1 * least


@pytest.mark.perf
def test_a_step_keeps_no_blocks_attention():
  rows, tokens, width = 1, 512, 32  # one row, which a CPU cuts into no parts

  def temporary(blocks):
    config = transformers.GPT2Config(
      n_layer=blocks, n_embd=width, n_head=4, vocab_size=300
    )
    _, step = gpt2_step(config, rows=rows, tokens=tokens, targets=8, prompt=4)
    return step.lower().compile().memory_analysis().temp_size_in_bytes

  kept = 4 * rows * tokens * 9 * width  # outputs of a block's matrix products: 3+1+4+1
  assert (temporary(6) - temporary(3)) / 3 < 1.5 * kept


def test_evidence_puts_soft_against_each_arm(benchmark):
  def arm(loss, share):
    ci95 = {'loss': (loss, loss), 'bleu': (share, share)}
    return {'loss': loss, 'bleu': share, 'ci95': ci95}

  def difference(figure, apart):
    interval = [apart - 0.5, apart + 0.5]
    pair = {'figure': figure, 'arm': 'soft', 'other': 'hard'}
    return pair | {'difference': apart, 'ci95': interval, 'better': True}

  found = {
    'config': {'metrics': ['bleu']},
    'test': {'hard': arm(3.0, 20.0), 'soft': arm(2.0, 25.0)},
    'differences': [difference('loss', -1.0), difference('bleu', 5.0)],
    'tuning': {
      'hard': {'rows': 0, 'tokens': 7.0},
      'soft': {'rows': 90, 'tokens': 0.0},
    },
  }
  *_, hard, soft = benchmark('evidence').arms_table(found).splitlines()
  assert '| hard | 0 | 7 | 3.00 [3.00, 3.00] | -1.00 [-1.50, -0.50] |' in hard
  assert '| 20.00 [20.00, 20.00] | +5.00 [+4.50, +5.50] |' in hard
  assert soft.startswith('| soft | 90 | 0 | 2.00 [2.00, 2.00] |  |')


def test_evidence_writes_a_tasks_tables(benchmark, monkeypatch, tmp_path):
  evidence = benchmark('evidence')
  conftest.write_data(tmp_path / 'data' / 'qa', 'qa', (12, 5, 3))
  sizes = {f'data.{split}_size': 0 for split in ('train', 'validation', 'test')}
  monkeypatch.setattr(
    evidence, 'COMMON', {**sizes, 'train.epochs': 1, 'prompt.length': 3}
  )
  monkeypatch.setattr(evidence, 'SHORT', {'arms': 'soft'})
  monkeypatch.setattr(evidence, 'RATES', {'deep': '0.01,0.03'})
  monkeypatch.setattr(evidence, 'SEEDS', '0,1')
  monkeypatch.setattr(evidence, 'LENGTHS', '2,4')
  own = {'data.max_source_tokens': 90, 'eval.max_new_tokens': 1}
  monkeypatch.setattr(evidence, 'TASKS', {'qa': ('qa', own)})

  def call(command, **_):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
      assert main.main(['jaxprompt', *command[3:]]) == 0
    return types.SimpleNamespace(stdout=printed.getvalue())

  monkeypatch.setattr(evidence.subprocess, 'run', call)
  folders = [str(conftest.CHECKPOINT), str(tmp_path / 'data'), str(tmp_path / 'out')]
  argv = ['evidence', *folders, '--arms=none,soft', '--prompts=deep-prefix']
  monkeypatch.setattr(sys, 'argv', argv)
  evidence.main()
  arms = (tmp_path / 'out' / 'qa' / 'arms.md').read_text()
  assert [line.split(' | ')[0] for line in arms.splitlines()[2:4]] == [
    *('| none', '| soft')
  ]
  assert 'Seeds 0,1 of deep-suffix: loss ' in arms
  head, _, own, *_ = (tmp_path / 'out' / 'qa' / 'kinds.md').read_text().splitlines()
  cells = dict(zip(head.split(' | '), own.split(' | '), strict=True))
  assert cells['| prompt'] == '| deep, prefix'
  assert float(cells['at peak |'].split(' ')[0]) > 0
  *_, two, four = (tmp_path / 'out' / 'qa' / 'lengths.md').read_text().splitlines()
  assert [row.split(' | ')[2] for row in (two, four)] == ['2', '4']


def test_arms_are_timed_in_a_table(benchmark, monkeypatch, tmp_path, capsys):
  data = conftest.write_data(tmp_path / 'data', 'qa', (12, 9, 3))
  monkeypatch.setattr(
    sys, 'argv', ['arms', 'tiny', str(data), '--rows=3', '--rounds=1']
  )
  arms = benchmark('arms')
  monkeypatch.setattr(arms, 'EXAMPLES', (1, 2))
  arms.main()
  head, rule, *rows = capsys.readouterr().out.splitlines()
  assert head.count('|') == rule.count('|') == 5
  cells = {name: around for name, around, *_ in (row[2:].split(' | ') for row in rows)}
  assert cells['none'] == '0'
  assert cells['soft, deep'] == '20'
  assert int(cells['few_shot, 2']) > int(cells['few_shot, 1']) > 0


def test_both_sides_take_turns(benchmark, monkeypatch, tmp_path, peer):
  monkeypatch.setenv('PYTHONPATH', f'{FOLDER.parent}{os.pathsep}{FOLDER}')
  versus = benchmark('versus_peft')
  directory = conftest.write_data(tmp_path / 'data', 'translation', (90, 1, 30))
  rows = tmp_path / 'rows.npz'
  tokenizer = loading.load(str(conftest.CHECKPOINT), 'float32').tokenizer
  versus.write_rows(tokenizer, directory, 'translation', rows)
  turns = ('train', 'evaluate', 'generate')
  case = versus.Case('translation', 'suffix', 4, turns, batches=2)
  timed = versus.measure(peer, conftest.CHECKPOINT, rows, case, rounds=2)
  for turn in turns:
    assert len(timed[turn]['ratios']) == 2
    assert min(timed[turn]['jaxprompt'] + timed[turn]['peft']) > 0
  assert all(peak > 0.05 for peak in timed['peak_gb'].values())
  assert 0 < timed['kept_gb'] < 0.05  # of the few sources of a tiny model
  same, operations = versus.same_steps(
    peer, conftest.CHECKPOINT, rows, case._replace(position='prefix')
  )
  assert [len(losses) for losses in same['losses']] == [20, 20]
  assert same['largest_difference'] == 0  # the stand-in is ourselves
  found = {
    'cases': [timed],
    'start': {'at once': (1.0, 2.0)},
    'same_steps': same,
    'operations': operations,
  }
  table = versus.table(found)
  assert '| command to first step, at once | 2.00 |' in table
  assert 'batch 4, embedding suffix, without the sources that are kept |' in table


def test_scale_puts_models_in_the_order_of_their_size(
  benchmark, monkeypatch, tmp_path, capsys
):
  scale = benchmark('scale')

  def command(config, workdir, *flags):
    """Leaves in a run's workdir what a run leaves."""
    if not config.startswith('--config='):
      return
    path = pathlib.Path(workdir.removeprefix('--workdir='))
    large = path.name == 'large'
    arms = {'hard': 3.0, 'soft': 1.0 if large else 2.0}
    apart = {'difference': arms['soft'] - 3.0, 'ci95': [-2.5, -0.5], 'better': True}
    found = {
      'config': {'metrics': ['bleu']},
      'model': path.name,
      'model_parameters': 9000 if large else 400,
      'test': {arm: {'loss': x, 'bleu': x} for arm, x in arms.items()},
      'differences': [
        {'figure': figure, 'arm': 'soft', 'other': 'hard', **apart}
        for figure in ('loss', 'bleu')
      ],
    }
    path.mkdir(parents=True)
    (path / 'results.json').write_text(json.dumps(found))

  monkeypatch.setattr(scale, 'command', command)
  monkeypatch.setattr(sys, 'argv', ['scale', str(tmp_path), 'm/large', 'm/small'])
  scale.main()
  *_, small, large = capsys.readouterr().out.splitlines()
  assert small.startswith('| small | 400 | 2.000 | -1.000 [-2.500, -0.500] than hard |')
  assert large.startswith('| large | 9,000 | 1.000 | -2.000 [-2.500, -0.500] than')
