"""The command as a user runs it: its files, its output, its errors."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from conftest import CHECKPOINT
from conftest import ROWS
from conftest import arguments
from conftest import write_data

from jaxprompt import errors
from jaxprompt import flags as flags_lib
from jaxprompt import main
from jaxprompt import modes
from jaxprompt.infer import decode
from jaxprompt.infer import evaluate
from jaxprompt.lm import loading
from jaxprompt.runs import setup
from jaxprompt.runs import workdir as workdir_lib
from jaxprompt.tasks import tasks
from jaxprompt.tasks import template as template_lib
from jaxprompt.training import checkpoint
from jaxprompt.training import loop
from jaxprompt.training import steps


def _jsonl(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def _run(*args, **kwargs):
  assert main.main(arguments(*args, **kwargs)) == 0


def _error(capsys, argv):
  """Runs the command, which must fail as users' mistakes do; returns its one line."""
  assert main.main(argv) == 2
  (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
  assert line.startswith('jaxprompt: ')
  return line


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A finished run of every task: {task: (workdir, data)}."""
  runs = {}
  for task in tasks.TASKS:
    workdir = tmp_path_factory.mktemp(task)
    data = write_data(workdir / 'data', task)
    _run(task, workdir, data)
    runs[task] = workdir, data
  return runs


@pytest.mark.parametrize('task', tasks.TASKS)
def test_results_hold_what_the_contract_says(finished, task):
  workdir, _ = finished[task]
  found = json.loads((workdir / 'results.json').read_text())
  assert (found['task'], found['model']) == (task, str(CHECKPOINT))
  assert found['prompt'] == {
    'name': tasks.TASKS[task].prompt_name,
    'kind': 'embedding',
    'length': 3,
    'init': 'text',
    'position': 'prefix',
    'parameters': 3 * 24,
  }
  assert [record['epoch'] for record in found['epochs']] == [1, 2]
  assert [record['step'] for record in found['epochs']] == [3, 6]
  assert found['versions']['jax'] == jax.__version__
  assert found['model_parameters'] == _weights_in(CHECKPOINT / 'model.safetensors')
  for split, size in {'train': 12, 'validation': 5, 'test': 7}.items():
    assert found['data'][split]['rows'] == size
    assert 0 <= found['data'][split]['padding'] < 1
  assert len(found['devices']) == jax.device_count()
  for arm in found['test'].values():
    assert arm['examples'] == 7
    assert arm['perplexity'] == pytest.approx(np.exp(arm['loss']))
    for name in ('loss', *tasks.TASKS[task].metrics):
      low, high = arm['ci95'][name]
      assert low <= arm[name] <= high


def test_each_virtual_tokens_drift_is_from_where_training_began(finished, gpt2):
  workdir, _ = finished['qa']
  checkpoints = workdir_lib.resolve(workdir) / 'checkpoints'
  prompts = checkpoint.read_best(checkpoints)[0], checkpoint.read_initial(checkpoints)
  best, initial = (x['embeddings'] for x in prompts)
  change = best - initial
  lm, params, _ = gpt2
  table = lm.vocabulary(params)
  expected = np.linalg.norm(change, axis=1) / np.linalg.norm(table, axis=1).mean()
  found = json.loads((workdir / 'results.json').read_text())['nearest_tokens']
  np.testing.assert_allclose([near['drift'] for near in found], expected, rtol=1e-5)
  assert min(expected) > 0


def _weights_in(path):
  with safetensors.safe_open(path, 'np') as f:
    return sum(f.get_tensor(name).size for name in f.keys())  # noqa: SIM118


@pytest.mark.parametrize('task', tasks.TASKS)
def test_a_rows_scores_are_the_figures_of_that_row_alone(finished, task):
  workdir, _ = finished[task]
  test = json.loads((workdir / 'results.json').read_text())['test']
  for arm, figures in test.items():
    rows = _jsonl(workdir / 'predictions' / f'{arm}.jsonl')
    assert list(rows[0]['scores']) == ['loss', *tasks.TASKS[task].metrics]
    for name in {'rougeL', 'squad_f1', 'token_match'} & rows[0]['scores'].keys():
      mean = np.mean([row['scores'][name] for row in rows])
      assert mean == pytest.approx(figures[name])


@pytest.mark.parametrize('task', tasks.TASKS)
def test_training_lowers_the_loss_below_the_untrained_prompts(finished, task):
  workdir, _ = finished[task]
  steps = [line for line in _jsonl(workdir / 'metrics.jsonl') if 'grad_norm' in line]
  assert [line['step'] for line in steps] == [1, 2, 3, 4, 5, 6]
  epochs = json.loads((workdir / 'results.json').read_text())['epochs']
  assert epochs[1]['train_loss'] < epochs[0]['train_loss']
  assert 0 < steps[0]['prompt_drift'] < steps[-1]['prompt_drift']


@pytest.mark.parametrize('task', tasks.TASKS)
def test_predictions_hold_every_test_row_in_order_for_every_arm(finished, task):
  workdir, data = finished[task]
  expected = _jsonl(data / 'test.jsonl')
  for arm in ('none', 'hard', 'soft'):
    rows = _jsonl(workdir / 'predictions' / f'{arm}.jsonl')
    ids = [str(row.get('id', i)) for i, row in enumerate(expected)]
    assert [row['id'] for row in rows] == ids
    for row, raw in zip(rows, expected, strict=True):
      example = tasks.TASKS[task].parse(raw, 0)
      assert row['source'] == example.source
      assert row['target'] == example.target


def test_only_the_small_state_is_in_a_checkpoint(finished):
  workdir, _ = finished['qa']
  size = sum(
    path.stat().st_size
    for path in (workdir / 'checkpoints').rglob('*')
    if path.is_file()
  )
  weights = (CHECKPOINT / 'model.safetensors').stat().st_size
  assert size < weights


def test_a_finished_run_only_prints_its_table_again(finished, capsys, monkeypatch):
  workdir, data = finished['qa']
  monkeypatch.setattr(setup, 'build', None)  # a run that computes would need it
  before = (workdir / 'results.json').read_text()
  _run('qa', workdir, data)
  printed = capsys.readouterr().out
  assert (workdir / 'results.json').read_text() == before
  words = 'none', 'hard', 'soft', 'squad_f1', '% Exact Match', 'loss', 'virtual token'
  for word in words:
    assert word in printed
  assert printed.endswith(f'report: {workdir / "report.html"}\n')


def test_a_report_that_cannot_be_written_leaves_the_run_finished(finished, capsys):
  workdir, data = finished['summarization']
  (workdir / 'report.html').unlink()
  (workdir / 'report.html').mkdir()
  _run('summarization', workdir, data)
  assert 'report.html cannot be written' in capsys.readouterr().out


def test_a_trained_run_is_compared_with_other_arms_without_training(finished, tmp_path):
  workdir, data = finished['qa']
  copy = shutil.copytree(workdir, tmp_path / 'copy')
  before = json.loads((copy / 'results.json').read_text())
  assert main.main(arguments('qa', copy, data, 'arms=best_hard,soft')) == 0
  after = json.loads((copy / 'results.json').read_text())
  assert list(after['test']) == ['best_hard', 'soft']
  assert after['test']['soft'] == before['test']['soft']
  assert after['epochs'] == before['epochs']
  assert len(after['tuning']['best_hard']['tried']) == 8
  assert after['tuning']['soft']['steps'] == after['epochs'][-1]['step']
  assert '>best_hard</th>' in (copy / 'report.html').read_text()
  flags = [f'--workdir={copy}', '--mode=eval', '--config.arms=none,soft']
  assert main.main(['jaxprompt', *flags]) == 0
  again = json.loads((copy / 'results.json').read_text())
  assert again['test']['soft'] == before['test']['soft']
  assert again['test']['none'] == before['test']['none']


def test_eval_measures_the_same_again(finished):
  workdir, data = finished['translation']
  before = json.loads((workdir / 'results.json').read_text())
  predictions = (workdir / 'predictions' / 'soft.jsonl').read_text()
  (workdir / 'results.json').unlink()
  _run('translation', workdir, data, mode='eval')
  assert json.loads((workdir / 'results.json').read_text()) == before
  assert (workdir / 'predictions' / 'soft.jsonl').read_text() == predictions


def _parsed(*flags):
  values, _ = flags_lib.parse(['jaxprompt', *flags])
  return values


def test_flags_change_what_a_run_is_used_with_and_no_config_is_needed(finished):
  workdir, _ = finished['qa']
  flags = (f'--workdir={workdir}', '--mode=export', '--config.model.path=/moved')
  config, _ = modes._trained_run(_parsed(*flags, '--config.eval.beams=2'))
  stored = json.loads((workdir / 'config.json').read_text())['config']
  assert (config.model.path, config.eval.beams) == ('/moved', 2)
  config.update(model=stored['model'], eval=stored['eval'])
  assert json.loads(json.dumps(config.to_dict())) == stored


@pytest.mark.parametrize(
  'flag, message',
  [
    ('--config.prompt.length=4', 'prompt.length is 4, was 3'),
    ('--config.task=translation', "task is 'translation', was 'qa'"),
    ('--config.sweep.seed=0,1', "sweep.seed is '0,1', which only --mode=sweep reads"),
  ],
)
def test_what_makes_another_run_cannot_be_changed_in_its_use(finished, flag, message):
  workdir, _ = finished['qa']
  values = _parsed(f'--workdir={workdir}', '--mode=export', flag)
  with pytest.raises(errors.UserError) as e:
    modes._trained_run(values)
  assert message in str(e.value)


def test_a_stored_config_with_another_field_is_refused(finished, tmp_path):
  workdir, _ = finished['qa']
  stored = json.loads((workdir / 'config.json').read_text())
  values = _parsed(f'--workdir={tmp_path}', '--mode=export')
  stored['config']['seed_of_tomorrow'] = 1
  (tmp_path / 'config.json').write_text(json.dumps(stored))
  with pytest.raises(errors.UserError, match="'seed_of_tomorrow' is no field"):
    modes._trained_run(values)


def test_a_model_that_has_moved_is_named_by_a_flag(
  finished, tmp_path, checkpoint_copy, capsys
):
  workdir, _ = finished['translation']
  shutil.copytree(workdir, tmp_path / 'run')
  stored = json.loads((tmp_path / 'run' / 'config.json').read_text())
  stored['config']['model']['path'] = '/gone'
  (tmp_path / 'run' / 'config.json').write_text(json.dumps(stored))
  run, output = f'--workdir={tmp_path / "run"}', f'--output={tmp_path / "adapter"}'
  argv = ['jaxprompt', '--mode=export', run, output]
  assert "model.path '/gone' is not a directory" in _error(capsys, argv)
  moved = f'--config.model.path={checkpoint_copy}'
  assert main.main([*argv, moved]) == 0
  (tmp_path / 'run' / 'results.json').unlink()
  assert main.main(['jaxprompt', '--mode=eval', run, moved]) == 0
  found = json.loads((tmp_path / 'run' / 'results.json').read_text())
  assert found['test'] == json.loads((workdir / 'results.json').read_text())['test']


def test_sampling_is_as_the_flags_say():
  values = _parsed(
    '--mode=predict', '--temperature=1e-30', '--top_k=5', '--top_p=1e-30'
  )
  given = values.temperature, values.top_k, values.top_p
  assert decode.sampling(*given) == decode.Sampling(1e-30, 5, 1e-30)
  values = _parsed('--mode=predict')
  assert decode.sampling(values.temperature, values.top_k, values.top_p) is None


def test_a_prompt_that_is_the_hard_text_and_does_not_train_scores_as_the_hard_arm(
  tmp_path, gpt2
):
  _, _, tokenizer = gpt2
  text = tasks.TASKS['qa'].hard_prompt + ' '
  length = len(tokenizer(text)['input_ids'])
  data = write_data(tmp_path / 'data', 'qa')
  _run(
    'qa',
    tmp_path / 'run',
    data,
    'train.learning_rate=0.0',
    'train.epochs=1',
    f'prompt.text={text}',
    f'prompt.length={length}',
  )
  test = json.loads((tmp_path / 'run' / 'results.json').read_text())['test']
  assert test['soft'] == test['hard']
  assert test['soft'] != test['none']


def test_a_run_ends_after_its_steps_and_validates_between_epochs(
  finished, tmp_path, capsys
):
  _, data = finished['qa']
  settings = ('train.steps=4', 'eval.every_steps=2', 'eval.validation_text=on')
  _run('qa', tmp_path, data, *settings)
  found = json.loads((tmp_path / 'results.json').read_text())
  steps = [(record['epoch'], record['step']) for record in found['epochs']]
  assert steps == [(0.667, 2), (1, 3), (1.333, 4)]
  best = min(found['epochs'], key=lambda record: record['validation_loss'])
  assert found['best_epoch'] == best['epoch'] and 'validation_squad_f1' in best
  assert (tmp_path / 'report.html').exists()
  written = (tmp_path / 'results.json').stat()
  _run('qa', tmp_path, data, *settings)
  assert (tmp_path / 'results.json').stat() == written


def test_a_run_ends_when_its_patience_does(finished, tmp_path):
  _, data = finished['qa']
  settings = ('train.learning_rate=0.0', 'train.epochs=5', 'train.patience=1')
  _run('qa', tmp_path, data, *settings)
  found = json.loads((tmp_path / 'results.json').read_text())
  assert [record['step'] for record in found['epochs']] == [3, 6]
  assert found['best_epoch'] == 1


def test_a_trained_prompt_starts_another_run(finished, tmp_path, capsys):
  workdir, data = finished['qa']
  again = ('prompt.init=' + str(workdir), 'train.learning_rate=0.0', 'train.epochs=1')
  _run('qa', tmp_path / 'run', data, *again)
  best, _ = checkpoint.read_best(workdir_lib.open_workdir(workdir) / 'checkpoints')
  copied, _ = checkpoint.read_best(
    workdir_lib.open_workdir(tmp_path / 'run') / 'checkpoints'
  )
  jax.tree.map(np.testing.assert_array_equal, copied, best)
  argv = arguments('qa', tmp_path / 'other', data, *again, 'prompt.length=4')
  line = _error(capsys, argv)
  assert 'is a prompt of 3 tokens, expected 4; set prompt.length' in line


def test_a_run_goes_on_with_other_devices_and_another_budget(finished, capsys):
  workdir, data = finished['qa']
  _run('qa', workdir, data, 'parallel.mode=pmap', 'train.context_cache_gb=0')
  assert 'best epoch' in capsys.readouterr().out
  argv = arguments('qa', workdir, data, 'train.context_dtype=bfloat16')
  assert "train.context_dtype is 'bfloat16', was 'float32'" in _error(capsys, argv)


@pytest.mark.parametrize('init, kind', [('vocab', 'residual'), ('random', 'deep')])
def test_other_initialisers_and_kinds_train_too(finished, tmp_path, init, kind):
  _, data = finished['qa']
  settings = (f'prompt.init={init}', f'prompt.kind={kind}', 'train.epochs=1')
  _run('qa', tmp_path, data, *settings, 'eval.beams=2')
  found = json.loads((tmp_path / 'results.json').read_text())
  assert len(found['nearest_tokens']) == (0 if kind == 'deep' else 3)
  numbers = 2 * 2 * 3 * 3 * 8 if kind == 'deep' else 3 * 24  # blocks, 2, heads, P, D
  assert (found['prompt']['kind'], found['prompt']['parameters']) == (kind, numbers)


def test_a_deep_prompt_starts_as_the_embedding_prompt_of_another_run(
  finished, tmp_path, capsys
):
  workdir, data = finished['qa']
  settings = ('prompt.kind=deep', 'train.learning_rate=0.0', 'train.epochs=1')
  run = tmp_path / 'run'
  _run('qa', run, data, f'prompt.init={workdir}', *settings)
  test, other = (
    json.loads((each / 'results.json').read_text())['test'] for each in (run, workdir)
  )
  assert test['soft']['loss'] == pytest.approx(other['soft']['loss'], rel=1e-5)
  back = arguments('qa', tmp_path / 'back', data, f'prompt.init={run}')
  assert 'holds keys and values, which prompt.kind' in _error(capsys, back)
  back = arguments('qa', tmp_path / 'back', data, f'prompt.init={run},{workdir}')
  assert 'names prompts of different kinds' in _error(capsys, back)


@pytest.mark.parametrize('kind', ['embedding', 'deep'])
def test_a_suffix_prompt_trains_and_is_measured_again_the_same(
  finished, tmp_path, kind
):
  _, data = finished['qa']
  rate = {'embedding': 0.05, 'deep': 0.01}[kind]
  settings = ('prompt.position=suffix', 'train.accumulate=2', f'prompt.kind={kind}')
  settings += (f'train.learning_rate={rate}',)
  _run('qa', tmp_path, data, *settings)
  found = json.loads((tmp_path / 'results.json').read_text())
  assert found['epochs'][1]['train_loss'] < found['epochs'][0]['train_loss']
  _run('qa', tmp_path, data, *settings, mode='eval')
  assert json.loads((tmp_path / 'results.json').read_text()) == found


def test_a_source_has_the_positions_that_prompt_and_answer_leave():
  lm, _, tokenizer, _ = loading.load(str(CHECKPOINT), 'float32')
  template = template_lib.Template(tokenizer, lm.end_ids)
  assert (lm.spec.max_positions, template.frame_tokens) == (192, 1)
  assert setup.source_room(lm, template, 20, 160) == 11
  assert setup.source_room(lm, template, 20, 170) == 1
  with pytest.raises(errors.UserError, match='171 tokens, which leaves no room'):
    setup.source_room(lm, template, 20, 171)


ERRORS = {
  'train.batch_size=0': 'train.batch_size is 0; expected a whole number from 1 to',
  'eval.max_new_tokens=180': '192 positions: lower prompt.length',
  'eval.max_new_tokens=120': '192 positions: shorten the text, or lower',
  'prompt.length=1000000000': 'prompt.length (1000000000) and the longest row',
  'prompt.init=/nowhere': "prompt.init '/nowhere' holds no trained prompt",
  'model.path=/nowhere': "model.path '/nowhere' is not a directory",
  'data.path=/nowhere': "data.path '/nowhere' is neither a directory nor a file",
}


@pytest.mark.parametrize('override', ERRORS)
def test_a_bad_value_is_one_line_with_status_2(finished, tmp_path, capsys, override):
  _, data = finished['qa']
  argv = arguments('qa', tmp_path, data, override)
  assert ERRORS[override] in _error(capsys, argv)
  assert not (tmp_path / 'config.json').exists()  # the workdir can still be used


@pytest.mark.parametrize(
  'flags, message',
  [
    ([], '--config is missing; expected FILE.py[:PRESET], or text, qa, '),
    (['--config=qa'], '--workdir is missing; expected a directory'),
    (['--mode=eval'], '--workdir is missing'),
    (['--mode=eval', '--prompt=x'], '--config is missing'),
    (['--mode=predict', '--input=-'], '--output is missing'),
  ],
)
def test_a_flag_that_is_needed_is_named(capsys, flags, message):
  assert message in _error(capsys, ['jaxprompt', *flags])


def test_the_command_starts_without_what_a_run_on_local_files_does_not_need():
  code = 'import sys; import jaxprompt.modes; print(*sys.modules)'
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  loaded = set(done.stdout.split())
  assert {'jax', 'jaxprompt.training.loop'} <= loaded
  assert not {'datasets', 'pandas', 'rouge_score', 'nltk'} & loaded  # half of the start


def test_a_workdir_of_another_config_is_refused_with_what_differs(finished, capsys):
  workdir, data = finished['qa']
  argv = arguments('qa', workdir, data, 'train.clip_norm=0.5', 'seed=3')
  line = _error(capsys, argv)
  assert 'seed is 3, was 0; train.clip_norm is 0.5, was 1.0' in line
  argv[3] = '--mode=eval'
  assert 'seed is 3, was 0' in _error(capsys, argv)


def test_eval_without_a_trained_prompt_says_so(finished, tmp_path, capsys):
  _, data = finished['qa']
  line = _error(capsys, arguments('qa', tmp_path, data, mode='eval'))
  assert 'has no checkpoint of a finished epoch; train there first' in line


def test_a_metric_that_cannot_be_computed_is_refused_before_training(tmp_path, capsys):
  data = write_data(tmp_path / 'data', 'qa')
  argv = arguments('qa', tmp_path / 'run', data, 'metrics=squad_f1,bleu-ja-mecab')
  assert main.main(argv) == 2
  assert 'BLEU (ja-mecab) cannot be computed' in capsys.readouterr().err
  assert not list((tmp_path / 'run').glob('checkpoints/*'))


def test_a_workdir_that_is_a_file_is_refused(finished, tmp_path, capsys):
  _, data = finished['qa']
  (tmp_path / 'file').write_text('')
  line = _error(capsys, arguments('qa', tmp_path / 'file', data))
  assert 'cannot be written' in line


def test_a_workdir_in_use_by_a_live_process_is_refused(finished, tmp_path, capsys):
  _, data = finished['qa']
  hold = (
    'import sys, time; from jaxprompt.runs import workdir\n'
    f'with workdir.lock(workdir.open_workdir({str(tmp_path)!r})):\n'
    '  print("held", flush=True); time.sleep(60)'
  )
  with subprocess.Popen([sys.executable, '-c', hold], stdout=subprocess.PIPE) as other:
    assert other.stdout.readline() == b'held\n'
    line = _error(capsys, arguments('qa', tmp_path, data))
    other.kill()
  assert f'is in use by process {other.pid}' in line


def test_a_bad_row_is_named_by_file_and_line(tmp_path, capsys):
  data = write_data(tmp_path / 'data', 'qa')
  row = {**ROWS['qa'](0), 'question': None}
  with (data / 'train.jsonl').open('a') as f:
    f.write(json.dumps(row) + '\n')
  line = _error(capsys, arguments('qa', tmp_path / 'run', data))
  assert 'train.jsonl line 13: question is None, expected a string' in line


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
  finished, tmp_path, capsys, monkeypatch
):
  _, data = finished['qa']
  step = steps.train_step

  def breaks_at_step_five(*args, **kwargs):
    state, scalars = step(*args, **kwargs)
    return state, {**scalars, 'loss': scalars['loss'] / (state.step < 5)}

  monkeypatch.setattr(steps, 'train_step', breaks_at_step_five)
  line = _error(capsys, arguments('qa', tmp_path, data))
  assert 'the loss is inf at step 5; lower train.learning_rate (0.15)' in line
  _, progress = checkpoint.read_best(workdir_lib.open_workdir(tmp_path) / 'checkpoints')
  assert [record['step'] for record in progress['epochs']] == [3]
  assert not (tmp_path / 'results.json').exists()


def _rename_weights(folder):
  (folder / 'model.safetensors').rename(folder / 'pytorch_model.bin')


def test_a_checkpoint_that_cannot_be_used_is_refused(
  finished, tmp_path, checkpoint_copy, capsys
):
  _, data = finished['qa']
  config = json.loads((checkpoint_copy / 'config.json').read_text())
  config['model_type'] = 'bert'
  (checkpoint_copy / 'config.json').write_text(json.dumps(config))
  argv = arguments('qa', tmp_path / 'run', data, f'model.path={checkpoint_copy}')
  assert "has model_type 'bert'; expected" in _error(capsys, argv)


def _change_weights(folder):
  file = folder / 'model.safetensors'
  arrays = safetensors.numpy.load_file(file)
  name = sorted(arrays)[0]
  safetensors.numpy.save_file({**arrays, name: arrays[name] + 1}, file)


def _change_rows(folder):
  lines = (folder / 'train.jsonl').read_text().splitlines()
  (folder / 'train.jsonl').write_text('\n'.join(lines[1:] + lines[:1]))


def test_identity_is_content_not_a_path(finished, tmp_path, capsys):
  workdir, data = (shutil.copytree(x, tmp_path / x.name) for x in finished['qa'])
  (tmp_path / 'moved').mkdir()
  model = shutil.copytree(CHECKPOINT, tmp_path / 'moved' / 'other-name')
  given = (f'model.path={model}',)
  assert main.main(arguments('qa', workdir, data, *given, mode='eval')) == 0
  (workdir / 'results.json').unlink()  # as if it had been stopped before its end
  _change_rows(data)
  error = _error(capsys, arguments('qa', workdir, data, *given))
  assert 'was made with other content than data.path now has: train' in error
  _change_weights(model)
  error = _error(capsys, arguments('qa', workdir, data, *given, mode='eval'))
  assert 'than data.path and model.path now has: weights, train' in error


def test_a_run_that_is_stopped_while_it_validates_loses_no_validation(
  finished, tmp_path, monkeypatch
):
  whole, data = finished['qa']
  own, calls = evaluate.loss, []

  def stopped(*arguments):
    calls.append(arguments)
    if len(calls) == 2:  # at the end of the second epoch of two
      raise loop.Terminated
    return own(*arguments)

  monkeypatch.setattr(evaluate, 'loss', stopped)
  with pytest.raises(loop.Terminated):
    main.main(arguments('qa', tmp_path / 'run', data))
  _run('qa', tmp_path / 'run', data)

  def validations(workdir):
    return [
      (line['step'], line['validation_loss'])
      for line in _jsonl(workdir / 'metrics.jsonl')
      if 'validation_loss' in line
    ]

  assert validations(tmp_path / 'run') == validations(whole)
  assert len(validations(whole)) == 2
