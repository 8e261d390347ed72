"""The command line: flags, help, config files, and mistakes in one line."""

import signal
import subprocess
import sys

import pytest
from conftest import CONFIGS

from jaxprompt import errors
from jaxprompt import flags as flags_lib
from jaxprompt import main
from jaxprompt.tasks import tasks

ROOT = CONFIGS.parent


def _error(*flags):
  with pytest.raises(errors.UserError) as e:
    flags_lib.parse(['jaxprompt', *flags])
  return str(e.value)


def _config(*flags):
  values, _ = flags_lib.parse(['jaxprompt', *flags])
  return values.config


MISTAKES = {
  ('--nosuchflag',): "Unknown command line flag 'nosuchflag'",
  ('--wrkdir=w',): 'Did you mean: workdir',
  ('--config.train.batchsize=4',): 'Did you mean: config.train.batch_size',
  ('--config.prompt.length.real=4',): "flag 'config.prompt.length.real'",
  ('--config.epochs=3',): '--config.epochs is no flag; expected --config.train.epochs',
  ('--batch_size=4',): 'expected --config.train.batch_size or --config.eval.batch_size',
  ('--workdir',): 'Missing value for flag --workdir',
  ('--output=', '--mode=export'): "--output is ''; expected a text in UTF-8",
  ('--workdir=\udcff',): "--workdir is '\\udcff'; expected a text in UTF-8",
  ('--mode=a\nb',): '--mode=a b: value should be one of',
  ('--mode=fly',): '--mode=fly: value should be one of <train|eval',
  ('--mode=compare', ''): "'' is no workdir; expected --mode=compare DIR DIR",
  ('--nodistributed=1',): '--nodistributed=1 does not take an argument',
  ('more',): "'more' is no flag; expected --NAME=VALUE",
  ('--flagfile=/nowhere',): 'Unable to open flagfile: [Errno 2] No such file',
  ('--config=configs/poem.py',): "--config 'configs/poem.py' is no file; expected FILE",
  ('--config=poem',): 'or one of qa, summarization, text, translation',
  ('--config=configs',): "--config 'configs' is no file",
  ('--config=' + 'a' * 5000,): 'is no file',
  ('--config=qa:huge',): "preset 'huge' is unknown; expected one of '', 'tiny'",
  ('--config=configs/qa.py', '--config.task=summarization'): (
    '--config=configs/qa.py is of the task qa, with its hard prompt, data and lengths; '
    'use --config of the other task'
  ),
  ('--config=qa', '--config.task=poem'): 'or --config=text for one of your own',
  ('--config=qa', '--config.train.batch_size=four'): "train.batch_size is 'four'; exp",
  ('--config=qa', '--config.train.epochs=' + '9' * 5000): "train.epochs is '999",
  ('--config=qa', '--config.train.warmup=10000000000'): 'train.warmup is 10000000000; ',
  ('--config=qa', '--config.train.learning_rate=1e38'): 'train.learning_rate is 1e+38',
  ('--config=qa', '--config.train.learning_rate=1e999'): 'train.learning_rate is inf',
  ('--config=qa', "--config.prompt={'lenth': 4}"): "'prompt.lenth' is no field",
  ('--config=qa', "--config.prompt={'length': '4'}"): "prompt.length is '4'; expected",
  ('--config=qa', "--config.prompt={'length': {}}"): 'prompt.length is {}; expected',
  ('--config=qa', '--config.prompt={1: 2}'): "'prompt.1' is no field",
  ('--config=qa', '--config.prompt={[]: 2}'): "--config.prompt is '{[]: 2}'; expected",
  ('--config=qa', '--config.prompt=4'): "--config.prompt is '4'; expected its fields",
  ('--config=qa', '--config.eval=' + '[' * 10000): 'expected its fields',
}


@pytest.mark.parametrize('flags', MISTAKES, ids=lambda flags: ' '.join(flags)[:60])
def test_a_mistake_in_a_flag_is_named(monkeypatch, flags):
  monkeypatch.chdir(ROOT)
  assert MISTAKES[flags] in _error(*flags)


@pytest.mark.parametrize(
  'flag, others',
  [
    ('--temperature=1e-40', '--temperature is 1e-40; expected a number from 1e-30'),
    ('--temperature=nan', '--temperature is nan; expected'),
    ('--temperature=inf', '--temperature is inf; expected'),
    ('--top_p=0', '--top_p is 0.0; expected'),
    ('--top_k=-1', '--top_k is -1; expected a whole number from 0 to 2147483647'),
    ('--seed=4294967296', '--seed is 4294967296; expected a whole number from 0 to'),
    ('--seed=-1', '--seed is -1; expected'),
  ],
)
def test_what_cannot_be_sampled_with_is_refused(flag, others):
  assert others in _error('--mode=predict', flag)


@pytest.mark.parametrize(
  'mode, flag, readers',
  [
    ('train', '--prompt=x', 'eval, predict, export, serve'),
    ('train', '--input=x', 'predict'),
    ('train', '--host=127.0.0.1', 'serve'),
    ('train', '--seed=0', 'predict'),
    ('eval', '--temperature=1', 'predict'),
    ('plan', '--distributed', 'train, eval, sweep, predict'),
    ('report', '--config=qa', 'train, eval, sweep, plan, predict, export, serve'),
    ('report', '--config.seed=3', 'train, eval, sweep, plan, predict, export, serve'),
    ('compare', '--workdir=w', 'train, eval, sweep, predict, export, report, serve'),
    ('compare', '--overwrite', 'predict, export'),
    ('serve', '--overwrite', 'predict, export'),
  ],
)
def test_a_flag_that_the_mode_does_not_read_is_refused(mode, flag, readers):
  name = flag.partition('=')[0]
  expected = f'{name} is of --mode={readers}; --mode={mode} reads --'
  assert _error(f'--mode={mode}', flag).startswith(expected)


def test_every_mode_has_its_flags_and_a_function():
  from jaxprompt import modes

  assert list(modes.MODES) == list(flags_lib.READS)


@pytest.mark.parametrize('flag', ['--help', '-h', '--helpfull', '-help'])
def test_help_goes_to_standard_output_whatever_else_is_there(capsys, flag):
  assert main.main(['jaxprompt', '--config=missing.py', flag, '--nosuchflag']) == 0
  printed = capsys.readouterr()
  assert printed.err == ''
  for mode, names in flags_lib.READS.items():
    (line,) = [x for x in printed.out.splitlines() if x.split()[:1] == [mode]]
    assert line.split()[1:] == [f'--{name}' for name in names]
  assert 'python -m jaxprompt.config' in printed.out


def test_help_whose_reader_has_left_ends_quietly():
  with subprocess.Popen(
    [sys.executable, '-m', 'jaxprompt.main', '--help'],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  ) as process:
    process.stdout.close()
    assert process.stderr.read() == b''
  assert process.returncode == 128 + signal.SIGPIPE


def test_flags_may_come_from_a_file(tmp_path):
  (tmp_path / 'flags').write_text('--config=qa:tiny\n--config.seed=7\n')
  assert _config(f'--flagfile={tmp_path / "flags"}').seed == 7
  (tmp_path / 'flags').write_bytes(b'\xff\xfe')
  assert "can't decode byte 0xff" in _error(f'--flagfile={tmp_path / "flags"}')


def test_the_last_value_of_a_field_counts_and_a_value_may_stand_apart():
  flags = ('--config=qa', '--config.seed=1', '--config.seed', '2')
  assert _config(*flags).seed == 2


def test_a_whole_section_merges_with_its_other_fields():
  plain = _config('--config=qa')
  given = _config(
    "--config.prompt={'length': 4, 'init': 'vocab'}",
    '--config=qa',
    '--config.train={"learning_rate": 1}',
    '--config.prompt.length=5',
  )
  assert (given.prompt.length, given.prompt.init) == (5, 'vocab')
  assert given.prompt.name == plain.prompt.name
  assert given.train.learning_rate == 1.0
  assert given.train.batch_size == plain.train.batch_size


@pytest.mark.parametrize('task', tasks.TASKS)
def test_a_shipped_config_is_found_by_its_name_from_anywhere(
  tmp_path, monkeypatch, task
):
  by_file = _config(f'--config={CONFIGS / task}.py:tiny')
  monkeypatch.chdir(tmp_path)
  assert _config(f'--config={task}:tiny') == by_file
  assert by_file.model.path == 'tiny'


FILES = {
  'def get_config(:\n': 'line 1 fails: SyntaxError: ',
  'import os\nimport nosuch\n': 'line 2 fails: ModuleNotFoundError: No module named',
  'def get_config():\n  x = 1\n  return x / 0\n': 'line 3 fails: ZeroDivisionError',
  'def get_config():\n  raise OSError("no disk")\n': 'line 2 fails: OSError: no disk',
  'def get_config():\n  return 3\n': ': 3 is no config; expected its fields',
  'x = 3\n': 'defines no get_config()',
  'def get_config():\n  return {"task": "qa", "sede": 1}\n': "'sede' is no field",
  'from jaxprompt import config\ndef get_config():\n  c = config.default("qa")\n'
  '  c.train.epochs = "x"\n  return c\n': 'line 4 fails: TypeError: Could not override',
  'from jaxprompt import config\ndef get_config():\n  c = config.default("qa")\n'
  '  c.data.path, c.seed = "x", -1\n  return c\n': 'seed is -1; expected a whole',
}


@pytest.mark.parametrize('text', FILES)
def test_a_config_file_that_fails_is_named_with_its_line(tmp_path, text):
  file = tmp_path / 'mine.py'
  file.write_text(text)
  line = _error(f'--config={file}')
  assert line.startswith(f'--config {str(file)!r}') and FILES[text] in line


def test_a_config_file_may_be_plain_and_take_no_preset(tmp_path):
  file = tmp_path / 'mine.py'
  file.write_text('def get_config():\n  return {"task": "qa", "data": {"path": "x"}}\n')
  assert _config(f'--config={file}', '--config.seed=3').data.path == 'x'
  assert 'takes 0 positional arguments' in _error(f'--config={file}:tiny')


def test_the_mistake_is_one_line_with_status_2(capsys):
  assert main.main(['jaxprompt', '--config=qa', '--config.prompt=a\nb']) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('jaxprompt: --config.prompt is ')


def test_a_platform_without_file_locks_is_refused_before_any_import(
  monkeypatch, capsys
):
  monkeypatch.setattr(main.importlib.util, 'find_spec', lambda name: None)
  monkeypatch.setattr(main, 'main', lambda argv: pytest.fail('has begun'))
  monkeypatch.setattr(main.sys, 'platform', 'win32')
  assert main.start() == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.endswith('win32 is no supported platform; expected Linux or macOS')


def test_a_function_of_ones_own_is_found_where_the_command_is_started(monkeypatch):
  monkeypatch.setattr(main.sys, 'path', ['/some/bin'])
  monkeypatch.setattr(main.signal, 'signal', lambda *_: None)
  monkeypatch.setattr(main, 'main', lambda argv: list(main.sys.path))
  assert main.start() == ['', '/some/bin']


def test_ctrl_c_while_importing_is_one_line_with_status_130():
  # Before anything but the standard library is there, and amid the slow imports.
  for stage in ('absl', 'jax', 'transformers'):
    code = (
      'import signal, sys\n'
      # Which is ignored where the tests run in the background of a script.
      'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
      'class Stop:\n'
      '  def find_spec(self, name, *_):\n'
      f'    if name == {stage!r}:\n'
      '      print(flush=True)\n'
      '      import time; time.sleep(30)\n'
      'sys.meta_path.insert(0, Stop())\n'
      'from jaxprompt import main\n'
      'sys.exit(main.start())\n'
    )
    with subprocess.Popen(
      [sys.executable, '-c', code, '--config=qa'],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
    ) as process:
      assert process.stdout.readline() == b'\n'
      process.send_signal(signal.SIGINT)
      _, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert error == b'jaxprompt: interrupted; run again to go on\n'
