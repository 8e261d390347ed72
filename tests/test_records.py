"""A workdir's files: whole, cut short, of another shape; and whether it is the same."""

import json

import pytest
import workdirs
from etils import epath

from jaxprompt import config as config_lib
from jaxprompt import errors
from jaxprompt import main
from jaxprompt.runs import records
from jaxprompt.runs import results

CONTENT = {'weights': 'w', 'tokenizer': 't', 'train': '1', 'test': '2'}


@pytest.fixture
def workdir(tmp_path):
  return epath.Path(workdirs.write_run(tmp_path / 'run'))


def _edit(path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


def test_what_a_run_writes_is_read(workdir):
  assert records.read_config(workdir)['config']['task'] == 'qa'
  assert records.read_results(workdir)['test']['soft']['loss'] == 2.1
  assert len(records.read_predictions(workdir, 'hard')) == 30
  assert records.read_metrics(workdir)[0]['step'] == 1
  assert records.read_sweep(workdir) is None


@pytest.mark.parametrize(
  'file, content, message',
  [
    (
      'config.json',
      '{}',
      r'config.json has None as config, which is not what a run',
    ),
    ('config.json', '[]', r'config.json has \[\] as its content'),
    (
      'config.json',
      '{"config": {}, "versions": {}, "devices": []}',
      'task is missing; expected its',
    ),
    ('config.json', '{"config": ', 'config.json cannot be read: .*; restore it'),
    ('results.json', '{}', 'results.json has None as task'),
    ('results.json', '{"task": "qa", "model": "m"}', 'has None as epochs'),
    ('results.json', 'null!', 'results.json cannot be read'),
    ('predictions/none.jsonl', '{"id": "1"}\n', r'none.jsonl has None as \[0\].source'),
    ('predictions/hard.jsonl', '[]\n', r'hard.jsonl has \[\] as \[0\], which'),
    ('metrics.jsonl', '{"step": "1"}\n', r"metrics.jsonl has '1' as \[0\].step"),
    ('metrics.jsonl', b'\xff\n', 'metrics.jsonl cannot be read'),
  ],
)
def test_a_file_of_another_shape_is_one_line_with_its_name_and_kept(
  workdir, capsys, file, content, message
):
  raw = content if isinstance(content, bytes) else content.encode()
  (workdir / file).write_bytes(raw)
  with pytest.raises(errors.UserError, match=message) as e:
    for read in (records.read_config, records.read_results, records.read_metrics):
      read(workdir)
    for arm in ('none', 'hard', 'soft'):
      records.read_predictions(workdir, arm)
  assert '\n' not in str(e.value)
  assert main.main(['jaxprompt', '--mode=report', f'--workdir={workdir}']) == 2
  assert str(e.value)[:60] in capsys.readouterr().err
  assert (workdir / file).read_bytes() == raw


def test_a_cut_results_entry_names_where(workdir):
  _edit(workdir / 'results.json', lambda x: x['test']['soft']['ci95'].pop('squad_em'))
  with pytest.raises(errors.UserError, match=r'None as test.soft.ci95.squad_em'):
    records.read_results(workdir)


def test_a_field_that_a_config_lacks_has_its_default(workdir):
  _edit(workdir / 'config.json', lambda x: x['config']['data'].pop('bad_rows'))
  assert records.read_config(workdir)['config']['data']['bad_rows'] == 'error'
  config = records.read_config(workdir)['config']
  records.check_config(workdir, config)


def test_only_what_decides_the_result_must_be_the_same(workdir):
  config = config_lib.complete(records.read_config(workdir)['config'], 'config.json')
  moved = config_lib.single_run(config)
  moved.model.path, moved.data.path = 'elsewhere', 'moved'
  with pytest.raises(errors.UserError, match=r"data.path is 'moved', was 'data'; mod"):
    records.check_config(workdir, moved.to_dict())  # nothing else to tell by
  _edit(workdir / 'config.json', lambda x: x.update(fingerprints=CONTENT))
  records.check_config(workdir, moved.to_dict())
  moved.seed = 3
  with pytest.raises(errors.UserError, match=r'config: seed is 3, was 0; use the same'):
    records.check_config(workdir, moved.to_dict())


@pytest.mark.parametrize(
  'change, remedy',
  [
    ({'hard_prompt': 'Say it :'}, 'by hard_prompts, with best_hard in arms'),
    ({'eval.beams': 3}, '--mode=eval --prompt=DIR measures the prompt'),
    ({'eval.beams': 3, 'seed': 9}, 'use the same config, or another directory$'),
  ],
)
def test_what_a_trained_run_may_be_asked_otherwise_is_told(workdir, change, remedy):
  config = config_lib.complete(records.read_config(workdir)['config'], 'config.json')
  config = config_lib.single_run(config)
  config.update_from_flattened_dict(change)
  with pytest.raises(errors.UserError, match=remedy):
    records.check_config(workdir, config.to_dict())


def test_a_models_checkpoint_is_no_run(tmp_path):
  (tmp_path / 'config.json').write_text('{"model_type": "gpt2"}')
  with pytest.raises(
    errors.UserError, match='is a checkpoint of a model; expected the'
  ):
    records.read_config(epath.Path(tmp_path))


def test_a_prompt_that_was_given_has_no_epoch(workdir):
  found = records.read_results(workdir)
  columns = ['loss']
  assert 'best epoch 3' in results.table(found | {'epochs': [{}]}, columns)
  head, *_ = results.table(found | {'epochs': []}, columns).splitlines()
  assert 'best epoch' not in head and head.endswith('a prompt that was given')


@pytest.mark.parametrize(
  'change, message',
  [
    ({'weights': 'other'}, r'other content than model.path now has: weights; give'),
    ({'train': 'other'}, r'other content than data.path now has: train; give what'),
    (dict.fromkeys(CONTENT, 'x'), r'data.path and model.path now has: weights, token'),
  ],
)
def test_other_content_is_refused_by_what_is_other(workdir, change, message):
  _edit(workdir / 'config.json', lambda x: x.update(fingerprints=CONTENT))
  records.check_content(workdir, CONTENT)
  records.check_content(workdir, {'weights': 'w'})
  with pytest.raises(errors.UserError, match=message):
    records.check_content(workdir, {**CONTENT, **change})


def test_a_run_without_fingerprints_is_taken_with_a_warning(workdir, monkeypatch):
  said = []
  monkeypatch.setattr(records.log, 'warning', lambda text, *a: said.append(text % a))
  records.check_content(workdir, CONTENT)
  assert len(said) == 1 and 'is not checked' in said[0]


@pytest.mark.parametrize('name', ['metrics.jsonl', 'results.json', 'report.html'])
def test_a_directory_with_files_of_the_users_is_no_workdir(tmp_path, name):
  (tmp_path / 'notes.txt').write_text('mine')  # which no run replaces
  records.check_config(epath.Path(tmp_path), {})
  (tmp_path / name).write_text('mine')
  with pytest.raises(errors.UserError, match=f'has no config.json, but {name}, which'):
    records.check_config(epath.Path(tmp_path), {})


def test_a_package_that_is_not_installed_is_named_in_a_line(monkeypatch):
  monkeypatch.setattr(results, '_PACKAGES', ('jax', 'no-such-package'))
  with pytest.raises(errors.UserError, match='no-such-package is not installed'):
    results.versions()
