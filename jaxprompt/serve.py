"""The page to try prompts at: all arms of a run side by side, as the tokens come."""

import contextlib
import logging
import os
import socket
import textwrap
import threading
import time
import warnings

from jaxprompt import errors
from jaxprompt.devices import devices
from jaxprompt.infer import answering
from jaxprompt.infer import evaluate
from jaxprompt.prompts import arms
from jaxprompt.runs import records
from jaxprompt.runs import setup
from jaxprompt.runs import trained_prompts
from jaxprompt.training import terminal

log = logging.getLogger(__name__)

_EXAMPLES = 10  # of each trained prompt's test rows
_SECONDS_BETWEEN_UPDATES = 0.05  # of the page; more is no smoother to read
_VISITORS = 8  # answered at a time; more wait for their turn


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
  """Returns `answering.Model`, and {name: `answering.Choice`}: the workdir's first."""
  layout = devices.layout(**config.parallel)
  progress = terminal.show_progress()
  experiment = setup.build_model(config, layout, progress)
  prompts = {}
  for name, directory in [(config.prompt.name, workdir), *others.items()]:
    if name in prompts:
      raise errors.UserError(
        f'--prompt {name}={directory}: another prompt is called {name}; choose another '
        'name'
      )
    own = {f'eval.{key}': value for key, value in config.eval.items()}
    prompt = trained_prompts.load_prompt(
      experiment, directory, settings=own if directory == workdir else None
    )
    rows = records.read_predictions(directory, 'soft')
    prompts[name] = answering.Choice(
      prompt,
      [row['source'] for row in rows[:_EXAMPLES]],
      records.read_wordings(directory),
    )
  return answering.load(experiment), prompts


def _warm_up(model, prompts):
  """Compiles what the examples need, so that no visitor's seconds count it."""
  for choice in prompts.values():
    for source in choice.examples[:1]:
      _, asked = answering.start(model, choice, source, choice.prompt.task.hard_prompt)
      for tokens in asked.values():
        next(tokens, None), next(tokens, None)


def _build(gradio, model, prompts):
  """Returns the page, gradio's `Blocks`."""
  names = list(prompts)
  columns = _columns(prompts.values())
  texts = {name: each.prompt.task.hard_prompt for name, each in prompts.items()}
  examples = [(name, text) for name in names for text in prompts[name].examples]

  def respond(name, source, hard_prompt):
    shown, note, found = 0.0, '', {}
    try:
      for note, found in answering.answer(model, prompts[name], source, hard_prompt):
        if time.monotonic() - shown > _SECONDS_BETWEEN_UPDATES:
          yield _show(model, columns, note, found)
          shown = time.monotonic()
    except errors.UserError as e:
      raise gradio.Error(str(e), duration=None, print_exception=False) from e
    yield _show(model, columns, note, found)

  with gradio.Blocks(title='jaxprompt', analytics_enabled=False) as demo:
    gradio.Markdown(
      '# Try a prompt\nOne frozen model, one source, and the ways to ask that the run '
      'has compared: none, without a prompt; hard, with a text of yours in front, or '
      'around `{source}`; soft, with trained virtual tokens. Answers are greedy: the '
      f'likeliest token each time.\n\nThe model: {model.name}.'
    )
    with gradio.Row():
      choice = gradio.Dropdown(names, value=names[0], label='Soft prompt')
      hard = gradio.Textbox(texts[names[0]], label='Hard prompt')
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
      for arm in columns:
        with gradio.Column(min_width=240):
          box = gradio.Textbox(
            label=arm, info=arms.ARMS[arm].title, lines=4, elem_id=arm
          )
          outputs.append(box)
          outputs.append(gradio.Markdown(elem_id=f'{arm}-speed'))
    example.input(examples.__getitem__, example, [choice, source], api_name=False)
    choice.change(texts.__getitem__, choice, hard, api_name=False)
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


def _columns(choices):
  """Returns the arms of any of the choices, soft last."""
  found = dict.fromkeys(arm for choice in choices for arm in choice.arms)
  return [*(arm for arm in found if arm != 'soft'), 'soft']


def _show(model, columns, note, answers):
  """Returns the values of the page's outputs: the note, then text and speed by arm."""
  values = [note and f'**{note}**']
  for arm in columns:
    values += _cells(model, answers[arm]) if arm in answers else ('', '')
  return values


def _cells(model, answered):
  """Returns the text and the speed of an `answering.Answer`."""
  tokens, seconds = len(answered.ids), answered.seconds
  if answered.shares:
    ranked = sorted(answered.shares.items(), key=lambda pair: -pair[1])
    text = '\n'.join(f'{label} {100 * share:.1f}%' for label, share in ranked)
    return text, f'{seconds:.2f} s'
  text = evaluate.text(model.template.tokenizer, answered.ids)
  return text, f'{tokens} tokens, {seconds:.2f} s, {tokens / seconds:.0f} tokens/s'
