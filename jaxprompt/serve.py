"""The page to try prompts at: none, hard and soft side by side, as the tokens come."""

import contextlib
import dataclasses
import functools
import logging
import os
import socket
import textwrap
import threading
import time
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxprompt import errors
from jaxprompt.data import collate
from jaxprompt.devices import devices
from jaxprompt.infer import decode
from jaxprompt.infer import evaluate
from jaxprompt.infer import labels
from jaxprompt.lm import model as lm_model
from jaxprompt.prompts import arms
from jaxprompt.prompts import kinds
from jaxprompt.prompts import placement
from jaxprompt.prompts import trained
from jaxprompt.runs import records
from jaxprompt.runs import setup
from jaxprompt.runs import trained_prompts
from jaxprompt.tasks import columns
from jaxprompt.tasks import template as template_lib
from jaxprompt.training import writer

log = logging.getLogger(__name__)

_ARMS = ('none', 'hard', 'soft')  # that a typed source is answered by
_EXAMPLES = 10  # of each trained prompt's test rows
_SECONDS_BETWEEN_UPDATES = 0.05  # of the page; more is no smoother to read
_SHORTEST = 64  # tokens that a source is padded to; longer ones to a power of two
_VISITORS = 8  # answered at a time; more wait for their turn


@dataclasses.dataclass(frozen=True)
class Model:
  """A frozen model and its compiled programs.

  Attributes:
    name: for people, with the devices it is on.
    lm, params, template: of `setup.Experiment`.
    first: (params, `placement.Placement`, ids [1, T], mask [1, T], max_new_tokens) ->
      the first new token [1], and the `decode.State`.
    then: (params, state, token [1]) -> the token after it, and the state.
    scores: by calibration, those of labels, see `labels.program`.
    lock: held by who computes a token, so that visitors take turns.
    closed: set when no more tokens are to be computed.
  """

  name: str
  lm: lm_model.LanguageModel
  params: dict
  template: template_lib.Template
  first: Callable
  then: Callable
  scores: dict[str, Callable]
  lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
  closed: threading.Event = dataclasses.field(default_factory=threading.Event)


@dataclasses.dataclass(frozen=True)
class Choice:
  """A prompt to choose on the page."""

  prompt: trained.TrainedPrompt
  examples: list[str]  # sources of its run's test rows


@dataclasses.dataclass
class Answer:
  """What one arm has said so far."""

  ids: list[int] = dataclasses.field(default_factory=list)
  shares: dict[str, float] | None = None  # of labels, where there are some
  seconds: float = 0.0  # of its own work


def run(config, workdir, others, *, host, port):
  """Serves the page until the process is interrupted; arguments as of `served`."""
  with served(config, workdir, others, host=host, port=port) as url:
    log.info('serving at %s until it is interrupted (Ctrl-C)', url)
    threading.Event().wait()


@contextlib.contextmanager
def served(config, workdir, others, *, host, port):
  """Serves the page while the context lasts; gives its address.

  Args:
    config: to use the run with whose prompt comes first.
    workdir: an epath, of that run.
    others: {name: epath} of runs with the same model.
    host, port: where.

  Raises:
    UserError: if gradio or a trained prompt is missing, models differ, or the port is
      taken.
  """
  gradio = _import_gradio()
  _check_address(host, port)  # before a large model takes its time to load
  model, prompts = _load(config, workdir, others)
  _warm_up(model, prompts)
  demo = _build(gradio, model, prompts)
  demo.queue(default_concurrency_limit=_VISITORS)
  demo.launch(
    server_name=host,
    server_port=port,
    theme=gradio.themes.Default(
      primary_hue='blue',
      font=['system-ui', 'sans-serif'],
      font_mono=['ui-monospace', 'monospace'],
    ),
    footer_links=[],
    share=False,
    ssr_mode=False,
    show_error=True,
    quiet=True,
    prevent_thread_lock=True,
  )
  try:
    yield demo.local_url
  finally:
    demo.close(verbose=False)
    # A process that exits while a thread is inside XLA is aborted.
    model.closed.set()
    with model.lock:
      pass


def _check_address(host, port):
  try:
    socket.create_server((host, port)).close()
  except (OSError, OverflowError) as e:
    raise errors.UserError(
      f'--host {host} --port {port} cannot be served at ({e}); choose another --port'
    ) from e


def _import_gradio():
  """Returns gradio, an optional dependency that asks for its settings when imported."""
  os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
  # Its deprecation warnings are for its own developers.
  warnings.filterwarnings('ignore', module='gradio')
  try:
    import gradio
  except ImportError as e:
    raise errors.UserError(
      "--mode=serve needs gradio; install it with: pip install 'jaxprompt[serve]'"
    ) from e
  return gradio


def _load(config, workdir, others):
  """Returns the `Model` and {name: `Choice`}, the workdir's own first."""
  layout = devices.layout(**config.parallel)
  progress = writer.show_progress(lambda: None)
  experiment = setup.build_model(config, layout, progress)
  lm, prompts = experiment.lm, {}
  for name, directory in [(config.prompt.name, workdir), *others.items()]:
    if name in prompts:
      raise errors.UserError(
        f'--prompt {name}={directory}: another prompt is called {name}; choose another '
        'name'
      )
    eval_config = config.eval if directory == workdir else None
    prompt = trained_prompts.load_prompt(
      experiment, directory, task=None, eval_config=eval_config
    )
    rows = records.read_predictions(directory, 'soft')
    prompts[name] = Choice(prompt, [row['source'] for row in rows[:_EXAMPLES]])

  def first(params, arm, ids, mask, max_new_tokens):
    logits, state = decode.prefill(
      lm, params, arm, ids, mask, max_new_tokens=max_new_tokens
    )
    return _likeliest(logits), state

  def then(params, state, tokens):
    logits, state = decode.advance(lm, params, state, tokens)
    return _likeliest(logits), state

  model = Model(
    experiment.model.title,
    lm,
    experiment.params,
    experiment.template,
    jax.jit(first, static_argnames='max_new_tokens'),
    jax.jit(then, donate_argnums=1),
    {
      name: jax.jit(labels.program(lm, experiment.template, name))
      for name in labels.CALIBRATIONS
    },
  )
  return model, prompts


def _likeliest(logits):
  return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def _warm_up(model, prompts):
  """Compiles what the examples need, so that no visitor's seconds count it."""
  for choice in prompts.values():
    for source in choice.examples[:1]:
      _, arms = _arms(model, choice.prompt, source, choice.prompt.hard_prompt)
      for tokens in arms.values():
        next(tokens, None), next(tokens, None)


def answer(model, prompt, source, hard_prompt):
  """Answers a source with the three arms, a token each in turn, or labels' shares.

  Args:
    model: `Model`.
    prompt: `trained.TrainedPrompt`.
    source: as a row of the task has it.
    hard_prompt: the text of the hard arm, in front of the source or around `{source}`.

  Yields:
    A note of what to know ('' if nothing), such as a cut, and {arm: `Answer`} so far.

  Raises:
    UserError: if there is nothing to answer, or no room for it.
  """
  note, arms = _arms(model, prompt, source, hard_prompt)
  answers = {arm: Answer() for arm in arms}
  while arms:
    for arm, tokens in list(arms.items()):
      with model.lock:
        if model.closed.is_set():
          return
        began = time.monotonic()
        token = next(tokens, None)
        answers[arm].seconds += time.monotonic() - began
      if token is None:
        del arms[arm]
      elif isinstance(token, dict):
        answers[arm].shares = token
      else:
        answers[arm].ids.append(token)
    yield note, answers


def _arms(model, prompt, source, hard_prompt):
  """Returns the note, and {arm: an iterator over its tokens, or labels' shares}."""
  source, hard_prompt = (columns.clean(x).strip() for x in (source, hard_prompt))
  if not source:
    raise errors.UserError('There is no source; type one, or choose an example.')
  if not hard_prompt:
    raise errors.UserError('The hard prompt is blank; type one.')
  template = model.template
  hard = arms.written(template, hard_prompt)
  longest = max(arms.tokens_around(hard, template), kinds.length(prompt.arrays))
  positions = model.lm.spec.max_positions
  limit = template.room(positions, longest, prompt.max_new_tokens)
  before, text, after = prompt.task.split(source)
  try:
    left, ids = template.source(before, text, after, limit)
  except errors.RowError as e:
    raise errors.UserError(
      f'The model has {positions} positions: {longest} for the prompt and '
      f'{prompt.max_new_tokens} for the answer leave {max(limit, 0)} tokens, too few '
      'for what cannot be cut; shorten the hard prompt or the question.'
    ) from e
  notes = []
  if prompt.beams > 1:
    notes.append(f'Greedy answers; the run was measured with {prompt.beams} beams.')
  if left != text:
    notes.append(
      f'The source was cut by its last {len(text) - len(left):,} characters'
      f'{" before the last line" if after else ""}: the model has '
      f'{positions} positions, which leave it {limit} tokens.'
    )
  asked = arms.source_ids(hard, template, f'{before}{left}{after}', ids)
  hard_ids = [*arms.ids_in_front(hard, template), *asked]
  none = jnp.zeros((0, model.lm.spec.width), jnp.float32)
  bare = placement.place(none, 'prefix')
  stream = functools.partial(_stream, model, new_tokens=prompt.max_new_tokens)
  if prompt.task.labels:
    stream = functools.partial(_classify, model, prompt)
  return ' '.join(notes), {
    'none': stream(bare, ids),
    # As ids, not as a matrix in front: another length of text compiles nothing new.
    'hard': stream(bare, hard_ids),
    'soft': stream(prompt.placement, ids),
  }


def _stream(model, arm, ids, new_tokens):
  """Yields the tokens of greedy generation up to and without the end of text."""
  token, state = model.first(
    model.params, arm, *_padded(model, ids), max_new_tokens=new_tokens
  )
  for _ in range(new_tokens):
    if int(token[0]) in model.template.end_ids:
      return
    yield int(token[0])
    token, state = model.then(model.params, state, token)


def _classify(model, prompt, arm, ids):
  """Yields each label's share of the probability, once."""
  own = labels.tokenise(model.template, prompt.task.labels)
  score, asked = model.scores[prompt.calibration], (arm, own.arrays)
  found = score(model.params, asked, _padded(model, ids))[0]
  yield labels.answer(own.texts, found)['scores']


def _padded(model, ids):
  """Returns a row's ids and mask, [1, T], of one of few lengths."""
  length = max(_SHORTEST, 1 << (len(ids) - 1).bit_length())
  return collate.pad([ids], length, 1, model.template.end_id)


def _build(gradio, model, prompts):
  """Returns the page, gradio's `Blocks`."""
  names = list(prompts)
  examples = [(name, text) for name in names for text in prompts[name].examples]

  def respond(name, source, hard_prompt):
    shown = 0.0
    try:
      for note, answers in answer(model, prompts[name].prompt, source, hard_prompt):
        if time.monotonic() - shown > _SECONDS_BETWEEN_UPDATES:
          yield _show(model, note, answers)
          shown = time.monotonic()
    except errors.UserError as e:
      raise gradio.Error(str(e), duration=None, print_exception=False) from e
    yield _show(model, note, answers)

  with gradio.Blocks(title='jaxprompt', analytics_enabled=False) as demo:
    gradio.Markdown(
      '# Try a prompt\nOne frozen model, one source, three ways to ask: without a '
      'prompt, with a hard prompt (a text in front, or around `{source}`), and with a '
      'soft prompt (trained virtual tokens). Answers are greedy: the likeliest token '
      f'each time.\n\nThe model: {model.name}.'
    )
    with gradio.Row():
      choice = gradio.Dropdown(names, value=names[0], label='Soft prompt')
      hard = gradio.Textbox(prompts[names[0]].prompt.hard_prompt, label='Hard prompt')
    # gradio's own Examples at times raise script errors as the page loads.
    example = gradio.Dropdown(
      [(f'{name} {_short(text)}', i) for i, (name, text) in enumerate(examples)],
      value=None,
      label='Example from the test split',
    )
    source = gradio.Textbox(
      label='Source', lines=5, max_lines=12, placeholder='What the model is to work on'
    )
    ask = gradio.Button('Answer', variant='primary')
    note = gradio.Markdown(elem_id='note')
    outputs = [note]
    with gradio.Row():
      for arm in _ARMS:
        with gradio.Column(min_width=240):
          outputs.append(gradio.Textbox(label=arm, lines=4, elem_id=arm))
          outputs.append(gradio.Markdown(elem_id=f'{arm}-speed'))
    example.input(examples.__getitem__, example, [choice, source], api_name=False)
    choice.change(
      lambda name: prompts[name].prompt.hard_prompt, choice, hard, api_name=False
    )
    gradio.on(
      [ask.click, source.submit],
      respond,
      [choice, source, hard],
      outputs,
      show_progress='minimal',
    )
  return demo


def _short(text):
  """Returns the beginning of a source's last line, which for qa is the question."""
  return textwrap.shorten(text.rpartition('\n')[2], 90, placeholder=' ...')


def _show(model, note, answers):
  """Returns the values of the page's outputs: the note, then text and speed by arm."""
  values = [note and f'**{note}**']
  for answered in answers.values():
    tokens, seconds = len(answered.ids), answered.seconds
    if answered.shares:
      ranked = sorted(answered.shares.items(), key=lambda pair: -pair[1])
      values.append('\n'.join(f'{label} {100 * share:.1f}%' for label, share in ranked))
      values.append(f'{seconds:.2f} s')
      continue
    values.append(evaluate.text(model.template.tokenizer, answered.ids))
    values.append(f'{tokens} tokens, {seconds:.2f} s, {tokens / seconds:.0f} tokens/s')
  return values
