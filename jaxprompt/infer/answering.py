"""Answers as they come: one source, asked in all ways, a token of each in turn."""

import dataclasses
import threading
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxprompt import errors
from jaxprompt.data import collate
from jaxprompt.infer import decode
from jaxprompt.infer import labels
from jaxprompt.lm import model as lm_model
from jaxprompt.prompts import arms
from jaxprompt.prompts import kinds
from jaxprompt.prompts import placement
from jaxprompt.prompts import trained
from jaxprompt.tasks import columns
from jaxprompt.tasks import template as template_lib

_SHORTEST = 64  # tokens that a source is padded to; longer ones to a power of two


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
  """A trained prompt to answer with, and the written arms it was compared with.

  Attributes:
    prompt: `trained.TrainedPrompt`.
    examples: sources of its run's test rows.
    wordings: {arm: `arms.Wording`} of what was measured.
  """

  prompt: trained.TrainedPrompt
  examples: list[str]
  wordings: dict[str, arms.Wording]

  @property
  def arms(self):
    """The names of the arms, in the order of the answers."""
    written = dict.fromkeys(('none', 'hard', *self.wordings))
    return (*written, 'soft')


@dataclasses.dataclass
class Answer:
  """What one arm has said so far."""

  ids: list[int] = dataclasses.field(default_factory=list)
  shares: dict[str, float] | None = None  # of labels, where there are some
  seconds: float = 0.0  # of its own work


def load(experiment):
  """Returns the `Model` of a `setup.Experiment`; compiles nothing yet."""
  lm, template = experiment.lm, experiment.template

  def first(params, arm, ids, mask, max_new_tokens):
    logits, state = decode.prefill(
      lm, params, arm, ids, mask, max_new_tokens=max_new_tokens
    )
    return _likeliest(logits), state

  def then(params, state, tokens):
    logits, state = decode.advance(lm, params, state, tokens)
    return _likeliest(logits), state

  return Model(
    experiment.model.title,
    lm,
    experiment.params,
    template,
    jax.jit(first, static_argnames='max_new_tokens'),
    jax.jit(then, donate_argnums=1),
    {name: jax.jit(labels.program(lm, name)) for name in labels.CALIBRATIONS},
  )


def _likeliest(logits):
  return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def answer(model, choice, source, hard_prompt):
  """Answers a source with all arms, a token each in turn, or labels' shares.

  Args:
    model: `Model`.
    choice: `Choice`.
    source: as a row of the task has it.
    hard_prompt: the text of the hard arm, in front of the source or around `{source}`.

  Yields:
    A note of what to know ('' if nothing), such as a cut, and {arm: `Answer`} so far.

  Raises:
    UserError: if there is nothing to answer, or no room for it.
  """
  note, running = start(model, choice, source, hard_prompt)
  answers = {arm: Answer() for arm in running}
  while running:
    for arm, tokens in list(running.items()):
      with model.lock:
        if model.closed.is_set():
          return
        began = time.monotonic()
        token = next(tokens, None)
        answers[arm].seconds += time.monotonic() - began
      if token is None:
        del running[arm]
      elif isinstance(token, dict):
        answers[arm].shares = token
      else:
        answers[arm].ids.append(token)
    yield note, answers


def start(model, choice, source, hard_prompt):
  """Returns the note, and {arm: an iterator over its tokens, or labels' shares}.

  Arguments and errors are those of `answer`.
  """
  source, hard_prompt = (columns.clean(x or '').strip() for x in (source, hard_prompt))
  if not source:
    raise errors.UserError('There is no source; type one, or choose an example.')
  if not hard_prompt:
    raise errors.UserError('The hard prompt is blank; type one.')
  prompt, template = choice.prompt, model.template
  hard = arms.written(template, hard_prompt)
  wordings = {**choice.wordings, 'none': arms.BARE, 'hard': hard}
  note, text, ids = _cut(model, prompt, source, wordings.values())
  nothing = placement.place(jnp.zeros((0, model.lm.spec.width), jnp.float32), 'prefix')
  own = {arm: (nothing, wording) for arm, wording in wordings.items()}
  own['soft'] = (prompt.placement, arms.BARE)
  answers = {}
  for arm in choice.arms:
    placed, wording = own[arm]
    # As ids, not as a matrix in front: another length of text compiles nothing new.
    front = arms.ids_in_front(wording, template)
    asked = [*front, *arms.source_ids(wording, template, text, ids)]
    if prompt.task.labels:
      empty = labels.empty_source(prompt.calibration, wording, template)
      empty = [*front, *empty] if empty else ()
      own_labels = labels.tokenise(
        template, prompt.task.labels, empty, wording.target_lead
      )
      answers[arm] = _classify(model, prompt.calibration, placed, asked, own_labels)
    else:
      answers[arm] = _stream(model, placed, asked, prompt.max_new_tokens)
  return note, answers


def _cut(model, prompt, source, wordings):
  """Returns a note, the source as far as all arms have room for it, and its ids."""
  template, positions = model.template, model.lm.spec.max_positions
  around = [arms.tokens_around(wording, template) for wording in wordings]
  longest = max(*around, kinds.length(prompt.arrays))
  new_tokens = prompt.answer_tokens(template)
  room = template.room(positions, longest, new_tokens)
  limit = min(room, prompt.max_source_tokens)
  before, text, after = prompt.task.split(source)
  try:
    left, ids = template.source(before, text, after, limit)
  except errors.RowError as e:
    if limit < room:
      raise errors.UserError(
        f'The source cannot be used: {e}. Sources of this prompt have at most {limit} '
        'tokens.'
      ) from e
    raise errors.UserError(
      f'The model has {positions} positions: {longest} for the longest prompt and '
      f'{new_tokens} for the answer leave {max(limit, 0)} tokens, too few '
      'for what cannot be cut; shorten the hard prompt or the question.'
    ) from e
  notes = []
  if prompt.beams > 1:
    notes.append(f'Greedy answers; the run was measured with {prompt.beams} beams.')
  if left != text:
    why = f'the model has {positions} positions, which leave it {limit} tokens'
    if limit < room:
      why = f'the run has data.max_source_tokens {limit}'
    notes.append(
      f'The source was cut by its last {len(text) - len(left):,} characters'
      f'{" before the last line" if after else ""}: {why}.'
    )
  return ' '.join(notes), f'{before}{left}{after}', ids


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


def _classify(model, calibration, arm, ids, own):
  """Yields each label's share of the probability, once; `own` are the `Labels`."""
  score, asked = model.scores[calibration], (arm, own.arrays)
  found = score(model.params, asked, _padded(model, ids))[0]
  yield labels.answer(own.texts, found)['scores']


def _padded(model, ids):
  """Returns a row's ids and mask, [1, T], of one of few lengths."""
  length = max(_SHORTEST, 1 << (len(ids) - 1).bit_length())
  return collate.pad([ids], length, 1, model.template.end_id)
