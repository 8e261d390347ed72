"""Whatever a user gives ends in a result, an error of a row, or an error of one line.

Some 2,000 rows, files, configs and command lines that hypothesis makes up.
"""

import copy
import functools
import gzip
import io
import json
import math

import hypothesis
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import workdirs
from conftest import CHECKPOINT
from hypothesis import strategies as st

from jaxprompt import config as config_lib
from jaxprompt import errors
from jaxprompt import flags as flags_lib
from jaxprompt.data import formats
from jaxprompt.data import rows as rows_lib
from jaxprompt.data import sources
from jaxprompt.devices import devices
from jaxprompt.infer import predict
from jaxprompt.prompts import peft
from jaxprompt.runs import output
from jaxprompt.runs import records
from jaxprompt.runs import setup
from jaxprompt.runs import trained_prompts
from jaxprompt.tasks import tasks
from jaxprompt.tasks import template


def _examples(count):
  return hypothesis.settings(
    max_examples=count,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
  )


def _result(function, *args, **options):
  """Returns what a function gives, or None if it raises a `UserError` of one line."""
  try:
    return function(*args, **options)
  except errors.UserError as e:
    assert str(e).strip() and '\n' not in str(e)
    str(e).encode()  # a terminal and a log can show it
    return None


# What JSON can hold, and Python's reader takes: NaN and lone surrogates among it.
_TEXTS = st.one_of(
  st.text(st.characters(), max_size=12),
  st.sampled_from(['', ' ', '\n', '\ud800', '\ufeff', '\0', '"', 'a,b', "don't", '{']),
  st.sampled_from(['A steam engine.', 'Who?', 'Straße', '漢字', '<|endoftext|>']),
)
_SCALARS = st.one_of(
  st.none(),
  st.booleans(),
  st.integers(),
  st.sampled_from([10**400, -1, 2**63, 1e400, -0.0, 1e-320, math.nan]),
  st.floats(),
  _TEXTS,
)
_JSON = st.recursive(
  _SCALARS,
  lambda x: st.lists(x, max_size=3) | st.dictionaries(_TEXTS, x, max_size=3),
  max_leaves=6,
)


def _or_any(strategy):
  """Mostly what is wanted, sometimes anything."""
  return st.one_of(strategy, strategy, strategy, _JSON)


_COLUMNS = {
  'id': _or_any(_TEXTS),
  'prompt': _or_any(st.sampled_from(['', 'qa'])),
  'context': _or_any(_TEXTS),
  'question': _or_any(_TEXTS),
  'answers': _or_any(st.fixed_dictionaries({'text': _or_any(st.lists(_TEXTS))})),
  'article': _or_any(_TEXTS),
  'highlights': _or_any(_TEXTS),
  'translation': _or_any(
    st.fixed_dictionaries({}, optional={'en': _or_any(_TEXTS), 'de': _or_any(_TEXTS)})
  ),
}
_ODD = st.dictionaries(_TEXTS, _JSON, max_size=1)
_ROWS = st.builds(dict.__or__, st.fixed_dictionaries({}, optional=_COLUMNS), _ODD)
_QA = st.fixed_dictionaries({name: _COLUMNS[name] for name in ('context', 'question')})
_QA_ROWS = st.builds(dict.__or__, _ROWS, _QA)
_BROKEN_LINES = st.sampled_from(
  ['', '{', '[]', '3', 'null', '{"id": 1, "id": 2}', '{"context": }', '\x0c', '\u2028']
  + ['{"id": ' + '9' * 5000 + '}', '[' * 100_000, '{"context": ' + '[' * 3000 + '}']
  + ['{"context": "\\ud800", "question": "\\udfff"}', '\ufeff{}', "{'id': 1}"]
)
_LINES = st.one_of(_ROWS.map(json.dumps), _QA_ROWS.map(json.dumps), _BROKEN_LINES)


@st.composite
def _spoiled_bytes(draw, contents):
  """Bytes as they are, or cut, or with other bytes in them."""
  content = draw(contents)
  at = draw(st.integers(0, len(content)))
  odd = draw(st.sampled_from([b'', b'', b'', b'\xff', b'\0', b'\r', b'"', b'\xef\xbb']))
  end = draw(st.sampled_from([None, None, None, at]))
  begin = draw(st.sampled_from([b'', b'', b'\xef\xbb\xbf', b'\xff\xfe']))
  return begin + (content[:at] + odd + content[at:])[:end]


def _joined(parts):
  ends = st.sampled_from(['\n', '\n', '\r\n', '\r', '\n\n'])
  text = st.builds(
    lambda end, lines: end.join(lines), ends, st.lists(parts, max_size=5)
  )
  return text.map(lambda x: x.encode('utf-8', 'surrogatepass'))


_CELLS = st.one_of(
  _TEXTS,
  _TEXTS.map(lambda x: '"' + x.replace('"', '""') + '"'),
  st.sampled_from(['"', '""', '"a"b', '{"text": ["x"]}', '"{""text"": [""x""]}"']),
)
_CSV_ROWS = st.lists(_CELLS, max_size=5).map(','.join)
_HEADERS = st.lists(st.sampled_from([*_COLUMNS, 'id', '']), max_size=5).map(','.join)
_CSV = st.builds(
  lambda header, rows: header.encode() + b'\n' + rows, _HEADERS, _joined(_CSV_ROWS)
)
_ARTICLES = st.fixed_dictionaries(
  {},
  optional={
    'title': _JSON,
    'paragraphs': _or_any(
      st.lists(
        st.fixed_dictionaries(
          {},
          optional={
            'context': _JSON,
            'qas': _or_any(
              st.lists(
                st.fixed_dictionaries(
                  {}, optional=dict.fromkeys(('id', 'question', 'answers'), _JSON)
                ),
                max_size=2,
              )
            ),
          },
        ),
        max_size=2,
      )
    ),
  },
)
_WHOLE = st.one_of(
  st.lists(_ROWS, max_size=4),
  st.fixed_dictionaries({'data': st.lists(_ROWS | _ARTICLES, max_size=3)}),
  _JSON,
).map(lambda x: json.dumps(x).encode())


@st.composite
def _parquet(draw):
  """A table of columns of any type, perhaps two of a name."""
  count = draw(st.integers(0, 3))
  values = {
    'string': st.text(st.characters(exclude_categories=['Cs']), max_size=8),
    'large_string': st.just('A steam engine.'),
    'int64': st.integers(-(2**63), 2**63 - 1),
    'float64': st.floats(),
    'binary': st.binary(max_size=4),
    'bool': st.booleans(),
    'timestamp[ns]': st.integers(-(2**63) + 1, 2**63 - 1),
    'date32': st.integers(-(2**31), 2**31 - 1),
    'null': st.none(),
  }
  names = draw(st.lists(st.sampled_from(list(_COLUMNS)), max_size=4))
  columns = []
  for _ in names:
    kind = draw(st.sampled_from(list(values)))
    own = draw(st.lists(values[kind] | st.none(), min_size=count, max_size=count))
    column = pyarrow.array(own, pyarrow.type_for_alias(kind))
    if draw(st.booleans()) and kind != 'null':
      column = pyarrow.StructArray.from_arrays([column] * 2, ['en', 'text'])
    columns.append(column)
  file = io.BytesIO()
  pyarrow.parquet.write_table(pyarrow.table(columns, names), file)
  return file.getvalue()


_FILES = st.one_of(
  st.tuples(st.just('.jsonl'), _spoiled_bytes(_joined(_LINES))),
  st.tuples(st.sampled_from(['.csv', '.tsv']), _spoiled_bytes(_CSV)),
  st.tuples(
    st.just('.csv.gz'), _spoiled_bytes(_spoiled_bytes(_CSV).map(gzip.compress))
  ),
  st.tuples(st.just('.json'), _spoiled_bytes(_WHOLE | _joined(_LINES))),
  st.tuples(st.just('.parquet'), _parquet()),
  st.tuples(st.just('.parquet'), _spoiled_bytes(_parquet())),
  st.tuples(st.sampled_from(formats.SUFFIXES), st.binary(max_size=40)),
)


@_examples(700)
@hypothesis.given(_FILES, st.booleans())
def test_any_file_of_rows_is_read_or_refused(tmp_path_factory, gpt2, file, skip):
  suffix, content = file
  path = tmp_path_factory.getbasetemp() / f'rows{suffix}'
  path.write_bytes(content)
  split = _result(sources.read_file, path)
  if split is None or not len(split.rows):
    return
  _, _, tokenizer = gpt2
  for task in tasks.TASKS.values():
    lengths = {'max_source_tokens': 9, 'max_target_tokens': 4}
    load = functools.partial(
      rows_lib.load, template.Template(tokenizer), task, split, size=0, **lengths
    )
    rows = _result(load, skip=skip)
    if rows is not None:
      assert len(rows.rows) + rows.skipped == len(split.rows)
      assert all(row.source.strip() and row.target.strip() for row in rows.rows)
      rows.fingerprint.encode()


@_examples(300)
@hypothesis.given(_FILES)
def test_any_input_is_streamed_row_by_row_or_refused(tmp_path_factory, file):
  suffix, content = file
  path = tmp_path_factory.getbasetemp() / f'stream{suffix}'
  path.write_bytes(content)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(content), 'utf-8'))
    for source in ('-', str(path)):
      rows = _result(lambda source=source: list(sources.stream(source)))
      assert all(isinstance(row, dict | errors.RowError) for row in rows or ())


@pytest.fixture(scope='module')
def answering():
  """What `predict` takes: a model, and two prompts of it."""
  config = config_lib.default('qa')
  config.model.path, config.data.path = str(CHECKPOINT), 'none'
  config.data.max_source_tokens, config.data.max_target_tokens = 15, 8
  config.eval.max_new_tokens, config.eval.batch_size = 3, 32
  config.prompt.length = 4
  progress = lambda batches, label: batches  # noqa: E731
  experiment = setup.build_model(
    config_lib.single_run(config), devices.layout(**config.parallel), progress
  )
  prompt = np.random.default_rng(0).normal(size=(4, 24)).astype(np.float32)
  return experiment, {
    name: trained_prompts.as_configured({'embeddings': prompt}, experiment.config)
    for name in ('', 'qa')
  }


@_examples(10)
@hypothesis.given(st.lists(_QA_ROWS.map(json.dumps) | _LINES, min_size=25, max_size=32))
def test_any_row_gets_its_prediction_or_its_error(tmp_path_factory, answering, lines):
  source = tmp_path_factory.getbasetemp() / 'in.jsonl'
  source.write_text('\n'.join(lines), errors='surrogatepass')
  written = tmp_path_factory.getbasetemp() / 'out.jsonl'
  opened = output.open_output(
    str(written), str(source), {'input': None}, overwrite=True
  )
  with opened:
    predict.predict(*answering, str(source), opened, sampling=None, seed=0)
  rows = list(sources.stream(str(source)))
  answers = written.read_text('utf-8').split('\n')
  assert answers.pop() == '' and len(answers) == len(rows)
  for i, (row, answer) in enumerate(zip(rows, map(json.loads, answers), strict=True)):
    assert answer.keys() in ({'id', 'prediction'}, {'id', 'error'})
    known = row.row if isinstance(row, errors.RowError) else row
    assert answer['id'] == tasks.row_id(known, i)
    assert all(isinstance(value, str) for value in answer.values())


_NUMBERS = st.one_of(st.integers(), st.floats()).map(str)
_VALUES = st.one_of(
  _TEXTS,
  _NUMBERS,
  st.sampled_from(['0', '1', '-1', '1e-40', 'nan', 'text', 'jit', '0,1', 'qa']),
  st.dictionaries(st.sampled_from(['length', 'seed', 'path', '']), _SCALARS).map(repr),
)
_NAMES = st.one_of(
  st.sampled_from([f'config.{name}' for name in config_lib.FIELDS]),
  st.sampled_from([f'config.{name}' for name in config_lib.SECTIONS]),
  st.sampled_from(sorted({name for read in flags_lib.READS.values() for name in read})),
  st.sampled_from(['mode', 'flagfile', 'undefok', 'config.', 'nosuch', '']),
)
_FLAGS = st.one_of(
  st.builds('--{}={}'.format, _NAMES, _VALUES),
  st.builds('--config={}'.format, st.sampled_from(['qa', 'qa:tiny', 'none', 'qa:'])),
  st.builds('--mode={}'.format, st.sampled_from(list(flags_lib.READS))),
  st.builds('-{}'.format, _NAMES),
  _VALUES,
)


@_examples(500)
@hypothesis.given(st.lists(_FLAGS, max_size=5))
def test_any_command_line_is_read_or_refused(flags):
  _result(flags_lib.parse, ['jaxprompt', '--config=qa', *flags])


def _own(field):
  """Values that a field may have, and such as are of its type."""
  if field.choices:
    return st.sampled_from(field.choices)
  if isinstance(field.default, str):
    return _TEXTS
  if isinstance(field.default, tuple):
    return st.lists(_TEXTS, max_size=2)
  return st.integers() if isinstance(field.default, int) else st.floats()


@st.composite
def _configs(draw):
  config = {'task': draw(_or_any(st.sampled_from(list(tasks.TASKS))))}
  names = draw(st.lists(st.sampled_from(list(config_lib.FIELDS)), max_size=4))
  for name in names:
    section, _, key = name.rpartition('.')
    value = draw(_or_any(_own(config_lib.FIELDS[name])))
    holder = config.setdefault(section, {}) if section else config
    if isinstance(holder, dict):
      holder[key] = value
  return config | draw(st.dictionaries(_TEXTS, _JSON, max_size=1))


@_examples(400)
@hypothesis.given(_or_any(_configs()))
def test_any_config_is_completed_or_refused(values):
  config = _result(config_lib.complete, values, 'here')
  if config is not None:
    config_lib.check(config)
    json.dumps(config.to_dict(), allow_nan=False)
    for name in config_lib.SWEPT:
      _result(config_lib.swept, config, name)
    _result(config_lib.single_run, config)


@st.composite
def _spoiled(draw, value):
  """JSON of which some part is replaced, or missing."""
  value = copy.deepcopy(value)
  for _ in range(draw(st.integers(0, 3))):
    at = value
    while at:
      keys = list(at) if isinstance(at, dict) else range(len(at))
      key = draw(st.sampled_from(keys))
      if isinstance(at[key], dict | list) and draw(st.integers(0, 3)):
        at = at[key]
        continue
      if draw(st.booleans()):
        at[key] = draw(_JSON)
      else:
        del at[key]
      break
  return json.dumps(value).encode()


@pytest.fixture(scope='module')
def stored(tmp_path_factory):
  """A run's workdir, and the content of its files."""
  folder = workdirs.write_run(tmp_path_factory.mktemp('stored') / 'run')
  names = ('config.json', 'results.json')
  return folder, {name: json.loads((folder / name).read_text()) for name in names}


@_examples(300)
@hypothesis.given(st.data())
def test_any_file_of_a_workdir_is_read_or_refused(stored, data):
  folder, contents = stored
  readers = {'config.json': records.read_config, 'results.json': records.read_results}
  for name, read in readers.items():
    content = data.draw(_spoiled_bytes(_spoiled(contents[name])))
    (folder / name).write_bytes(content)
    _result(read, folder)


@pytest.fixture(scope='module', params=['embeddings', 'keys_values'])
def adapter(request, gpt2, tmp_path_factory):
  """A directory, the content of an adapter's files, and the model's spec."""
  spec = gpt2[0].spec
  shapes = {
    'embeddings': (2, spec.width),
    'keys_values': (spec.blocks, 2, spec.kv_heads, 2, spec.head_dim),
  }
  prompt = {request.param: np.ones(shapes[request.param], np.float32)}
  of_model = {'base': 'gpt2', 'weights': 'w', 'spec': spec}
  files = peft.files_of(
    prompt, **of_model, name='x', task='qa', template='t', ranked=''
  )
  return tmp_path_factory.mktemp('adapter'), files, of_model


@_examples(100)
@hypothesis.given(st.data())
def test_any_adapter_is_read_or_refused(adapter, data):
  directory, files, of_model = adapter
  config = _spoiled(json.loads(files[peft.CONFIG]))
  for name, content in {
    peft.CONFIG: data.draw(_spoiled_bytes(config)),
    peft.WEIGHTS: data.draw(_spoiled_bytes(st.just(files[peft.WEIGHTS]))),
  }.items():
    (directory / name).write_bytes(content)
  found = _result(peft.read, directory, **of_model)
  assert found is None or all(np.isfinite(array).all() for array in found.values())
  _result(peft.kind_and_length, directory)
