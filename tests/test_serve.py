"""The page to try prompts at: its answers, its limits, and what a visitor sees."""

import dataclasses
import json
import shutil
import socket
import sys

import pytest
from conftest import CHECKPOINT
from conftest import arguments
from conftest import write_data
from etils import epath
from playwright import sync_api

import jaxprompt as jp
from jaxprompt import config as config_lib
from jaxprompt import errors
from jaxprompt import main
from jaxprompt import serve
from jaxprompt.infer import answering
from jaxprompt.infer import evaluate
from jaxprompt.runs import records


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A finished run of qa with 192 positions, of which 12 are for the answer.

  Its soft prompt stands after the source, none and hard before it.
  """
  workdir = tmp_path_factory.mktemp('qa')
  data = write_data(workdir / 'data', 'qa')
  overrides = ('eval.max_new_tokens=12', 'train.learning_rate=0.5')
  overrides += ('prompt.kind=deep', 'prompt.position=suffix')
  overrides += ('arms=none,hard,few_shot,soft', 'few_shot.examples=1')
  argv = arguments('qa', workdir, data, *overrides)
  assert main.main(argv) == 0
  return epath.Path(workdir)


@pytest.fixture(scope='module')
def other(workdir, tmp_path_factory):
  """A run of the same model whose hard prompt is another."""
  folder = tmp_path_factory.mktemp('other') / 'run'
  shutil.copytree(workdir, folder)
  _edit_config(folder, hard_prompt='Reply')
  return epath.Path(folder)


def _config(workdir):
  config = config_lib.complete(records.read_config(workdir)['config'], 'config.json')
  return config_lib.single_run(config)


def _edit_config(folder, **fields):
  path = folder / 'config.json'
  stored = json.loads(path.read_text())
  path.write_text(json.dumps({**stored, 'config': {**stored['config'], **fields}}))


@pytest.fixture(scope='module')
def loaded(workdir):
  """The model and the trained prompt with the arms of its run."""
  model, prompts = serve._load(_config(workdir), workdir, {})
  return model, prompts['[QUESTIONANSWERING]']


@pytest.fixture(scope='module')
def predictions(workdir):
  """{arm: rows} as the evaluation wrote them."""
  return {
    arm: [
      json.loads(line)
      for line in (workdir / 'predictions' / f'{arm}.jsonl')
      .read_text()
      .split('\n')[:-1]
    ]
    for arm in ('none', 'hard', 'few_shot', 'soft')
  }


@pytest.fixture(scope='module')
def url(workdir, other):
  """The served page's address; nothing but this machine may have been asked for it."""
  outside, connect, resolve = [], socket.socket.connect, socket.getaddrinfo

  def watched_connect(self, address):
    if self.family != socket.AF_UNIX and not address[0].startswith('127.'):
      outside.append(address)
    return connect(self, address)

  def watched_resolve(host, *args, **kwargs):
    if not host.startswith('127.'):
      outside.append(host)
    return resolve(host, *args, **kwargs)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(socket.socket, 'connect', watched_connect)
    patch.setattr(socket, 'getaddrinfo', watched_resolve)
    with socket.create_server(('127.0.0.1', 0)) as free:
      port = free.getsockname()[1]
    others = {'another': other}
    config = _config(workdir)
    with serve.served(config, workdir, others, host='127.0.0.1', port=port) as url:
      yield url
  assert not outside


def _last(model, choice, source, hard_prompt='Answer the Following Question'):
  """The note and {arm: text} at an answer's end."""
  *_, (note, answers) = answering.answer(model, choice, source, hard_prompt)
  texts = {
    arm: evaluate.text(model.template.tokenizer, answered.ids)
    for arm, answered in answers.items()
  }
  return note, texts


def test_all_arms_answer_as_the_evaluation_did(loaded, predictions):
  model, choice = loaded
  texts = set()
  for i, row in enumerate(predictions['soft']):
    note, found = _last(model, choice, row['source'])
    assert note == ''
    assert found == {arm: rows[i]['prediction'] for arm, rows in predictions.items()}
    texts |= set(found.values())
  assert len(texts) > 3  # arms and rows do not all say the same


def test_the_hard_prompt_may_stand_around_the_source(loaded, predictions):
  model, choice = loaded
  source, text = predictions['soft'][0]['source'], 'Text: {source}\nA:'
  _, found = _last(model, choice, source, text)
  expected = jp.generate(
    jp.load_model(str(CHECKPOINT)),
    jp.Hard(text),
    [source],
    max_new_tokens=choice.prompt.max_new_tokens,
  )
  assert [found['hard']] == expected


def test_answers_come_a_token_of_each_arm_at_a_time(loaded, predictions):
  model, choice = loaded
  source = predictions['soft'][0]['source']
  counts = [
    [len(answered.ids) for answered in answers.values()]
    for _, answers in answering.answer(model, choice, source, 'Reply')
  ]
  assert counts[:2] == [[1] * 4, [2] * 4]
  assert all(answer <= 12 for answer in counts[-1])


def _measured_with(choice, max_source_tokens):
  prompt = dataclasses.replace(choice.prompt, max_source_tokens=max_source_tokens)
  return dataclasses.replace(choice, prompt=prompt)


@pytest.mark.parametrize(
  'most, why',
  [(999, 'the model has 192 positions'), (90, 'the run has data.max_source_tokens 90')],
)
def test_a_long_source_is_cut_before_the_question_with_a_note(loaded, most, why):
  model, choice = loaded
  choice = _measured_with(choice, most)
  question = '\nWho improved the steam engine?'
  note, found = _last(model, choice, 'James Watt did it. ' * 60 + question)
  assert note.startswith('The source was cut by its last ')
  assert f'before the last line: {why}' in note
  left = 60 * 19 - int(note.split('its last ')[1].split(' ')[0].replace(',', ''))
  assert _last(model, choice, ('James Watt did it. ' * 60)[:left] + question) == (
    '',
    found,
  )


@pytest.mark.parametrize(
  'source, hard_prompt, message',
  [
    (' \n ', 'Reply', 'There is no source; type one, or choose an example.'),
    ('Who?', ' ', 'The hard prompt is blank; type one.'),
    (
      'Who? ' * 200,
      'Reply',
      'is 600 tokens and is never cut.* Sources of this prompt have at most 90 tok',
    ),
    ('Who?', 'Reply ' * 200, 'leave 0 tokens, too few for what cannot be cut'),
  ],
)
def test_what_cannot_be_answered_is_said_in_a_sentence(
  loaded, source, hard_prompt, message
):
  with pytest.raises(errors.UserError, match=message):
    _last(*loaded, source, hard_prompt)


def _error(capsys, *flags):
  assert main.main(['jaxprompt', '--mode=serve', *flags]) == 2
  return capsys.readouterr().err.splitlines()[-1]


def test_a_workdir_without_a_prompt_is_one_line_with_status_2(
  workdir, tmp_path, capsys
):
  assert 'has no config.json' in _error(capsys, f'--workdir={tmp_path}')
  shutil.copy(workdir / 'config.json', tmp_path)
  line = _error(capsys, f'--workdir={tmp_path}')
  assert 'has no checkpoint of a finished epoch; train there first' in line


def test_prompts_of_another_model_are_refused(workdir, other, capsys, tmp_path):
  folder = shutil.copytree(other, tmp_path / 'run')
  stored = json.loads((folder / 'config.json').read_text())
  stored['fingerprints']['weights'] = 'of another model'
  (folder / 'config.json').write_text(json.dumps(stored))
  line = _error(capsys, f'--workdir={workdir}', f'--prompt=big={folder}')
  assert 'was made with other content than model.path now has: weights' in line
  line = _error(capsys, f'--workdir={workdir}', f'--prompt=[QUESTIONANSWERING]={other}')
  assert 'another prompt is called [QUESTIONANSWERING]' in line
  line = _error(capsys, f'--workdir={workdir}', '--prompt=big')
  assert "big' has no name here; expected NAME=WORKDIR" in line


def test_a_taken_port_is_one_line_with_status_2(workdir, capsys):
  with socket.create_server(('127.0.0.1', 0)) as taken:
    port = taken.getsockname()[1]
    line = _error(capsys, f'--workdir={workdir}', f'--port={port}')
  assert 'choose another --port' in line


def test_without_gradio_the_remedy_is_named(workdir, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, 'gradio', None)
  line = _error(capsys, f'--workdir={workdir}')
  assert "pip install 'jaxprompt[serve]'" in line


def _open(visit, url, **options):
  page = visit(url, **options)
  page.get_by_role('button', name='Answer').wait_for()
  page.wait_for_timeout(1000)  # gradio's own scripts go on after all is drawn
  return page


def _ask(page, source):
  page.get_by_label('Source').fill(source)
  page.get_by_role('button', name='Answer').click()


def _expect(page, predictions, i):
  """Expects the page to show what the evaluation wrote of the i-th row."""
  for arm, rows in predictions.items():
    expected = rows[i]['prediction'].replace('\r\n', '\n').replace('\r', '\n')
    sync_api.expect(page.locator(f'#{arm} textarea')).to_have_value(expected)


def test_two_visitors_at_once_get_the_texts_that_predict_gives(url, visit, predictions):
  pages = [_open(visit, url), _open(visit, url)]
  for i, page in enumerate(pages):
    _ask(page, predictions['soft'][i]['source'])
  for i, page in enumerate(pages):
    _expect(page, predictions, i)
    assert 'tokens/s' in page.locator('#soft-speed').inner_text()


def test_an_example_brings_its_prompt_and_source(url, visit, predictions):
  page = _open(visit, url)
  source = predictions['soft'][2]['source']
  page.get_by_label('Example from the test split').click()
  question = source.splitlines()[-1]
  page.get_by_role('option', name=f'another {question}').click()
  sync_api.expect(page.get_by_label('Soft prompt', exact=True)).to_have_value('another')
  sync_api.expect(page.get_by_label('Source')).to_have_value(source)
  sync_api.expect(page.get_by_label('Hard prompt', exact=True)).to_have_value('Reply')


def test_another_prompt_brings_its_hard_text_which_can_be_edited(url, visit):
  page = _open(visit, url)
  hard = page.get_by_label('Hard prompt', exact=True)
  sync_api.expect(hard).to_have_value('Answer the Following Question')
  page.get_by_label('Soft prompt', exact=True).click()
  page.get_by_role('option', name='another').click()
  sync_api.expect(hard).to_have_value('Reply')
  hard.fill(' ')
  _ask(page, 'Who?')
  page.get_by_text('The hard prompt is blank; type one.').wait_for()
  hard.fill('Say')
  _ask(page, 'James Watt did it. ' * 60 + '\nWho?')
  page.get_by_text('The source was cut by its last').wait_for()


def test_the_page_is_served_to_this_machine_alone(url):
  port = int(url.removeprefix('http://127.0.0.1:').removesuffix('/'))
  # Another address of this machine, which would answer if all were served.
  with pytest.raises(ConnectionRefusedError):
    socket.create_connection(('127.0.0.2', port), timeout=5)
