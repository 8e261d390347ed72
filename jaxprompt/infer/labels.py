"""Classification: every label of a task by its likelihood after a source.

The source is run once; each label's tokens follow it over the KV cache, so that no text
is generated and no answer is outside of the labels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.data import collate
from jaxprompt.prompts import arms
from jaxprompt.prompts import model
from jaxprompt.tasks import template as template_lib

_SHORTEST = 16  # tokens that a source without content is padded to


class Labels(NamedTuple):
  """The labels of a task as they are tokenised: L labels of at most N tokens.

  A label's tokens are those of a target, with the space in front and the end of text:
  the sum of their log-likelihoods is the probability of exactly this answer, whatever
  its length, so that it ranks labels of different lengths. A mean would favour long
  labels, whose last tokens follow from the first.
  """

  texts: tuple[str, ...]
  input_ids: np.ndarray  # [L, N] int32
  mask: np.ndarray  # [L, N] bool
  empty: tuple  # ids and mask of a source without content, [1, K] each

  @property
  def arrays(self):
    return self.input_ids, self.mask, self.empty

  def tokens(self, i):
    """Returns the ids of label i without the end of text."""
    return self.input_ids[i][self.mask[i]][:-1].tolist()


def empty_source(calibration, wording, template):
  """Returns the ids of a source without content under a `Wording`, if it is needed."""
  return () if calibration == 'none' else tuple(arms.empty_source(wording, template))


def tokenise(template, texts, empty, lead=template_lib.SPACE):
  """Returns the `Labels` of texts.

  Args:
    template: `template.Template`.
    texts: the labels.
    empty: ids of a source without content, as the arm has it; () without calibration.
    lead: what a target begins with.
  """
  ids = [template.target(text, None, lead=lead)[1] for text in texts]
  padded = collate.pad(ids, max(map(len, ids)), len(ids), template.end_id)
  # Of few lengths, so that arms share a program.
  room = max(_SHORTEST, 1 << (len(empty) - 1).bit_length()) if empty else 0
  return Labels(tuple(texts), *padded, collate.pad([empty], room, 1, template.end_id))


CALIBRATIONS = ('none', 'content_free')


def program(lm, calibration, members=1):
  """Returns a function that scores every label after every row's source.

  The labels' log-likelihoods are calibrated by those that they have after a source
  without content: Zhao et al. 2021, "Calibrate Before Use" (arXiv:2102.09690).

  Args:
    lm: `lm.model.LanguageModel`.
    calibration: one of `CALIBRATIONS`.
    members: M, the prompts of a source; the placement is then of B * M rows, those of a
      source next to each other.

  Returns:
    (params, (`placement.Placement`, `Labels.arrays`), (ids [B, T], mask [B, T])) ->
    sums over the labels' tokens in nats, [B, M, L] float32. Sources may be padded on
    either side.
  """

  def run(params, asked, rows):
    placement, (*labels, empty) = asked
    rows = [jnp.repeat(x, members, axis=0) for x in rows]
    found = _sums(lm, params, placement, labels, *rows)  # [B * M, L]
    if calibration != 'none':
      empty = [jnp.broadcast_to(x, (len(found), x.shape[1])) for x in empty]
      found -= _sums(lm, params, placement, labels, *empty)
    return found.reshape(-1, members, found.shape[1])

  return run


def _sums(lm, params, placement, labels, input_ids, attention_mask):
  last, context = model.prompted_source(
    lm, params, placement, input_ids, attention_mask
  )

  def one(label):
    ids, mask = (jnp.broadcast_to(x, (len(input_ids), len(x))) for x in label)  # [B, N]
    embeds = lm.embed(params, ids[:, :-1])
    hidden, _ = model.hidden_states(
      lm, params, embeds, mask[:, :-1], contexts=[context]
    )  # [B, N - 1, H]
    hidden = jnp.concatenate([last[:, None], hidden], axis=1)  # [B, N, H]
    nats = model.token_losses(lm, params, hidden, ids)
    return -jnp.sum(nats * mask, axis=1)

  # One after the other: the cache of the sources is not copied for each.
  return jax.lax.map(one, tuple(map(jnp.asarray, labels))).T  # [B, L]


def choice(scores):
  """Returns which label most of M prompts choose by their scores, [M, L].

  Of labels that as many choose, it is the one of the highest mean log-likelihood.
  """
  votes = np.bincount(scores.argmax(axis=1), minlength=scores.shape[1])
  tied = votes == votes.max()
  return int(np.where(tied, scores.mean(axis=0), -np.inf).argmax())


def probabilities(scores):
  """Returns each label's share of the likelihood of all, a mean over M prompts, [L]."""
  scores = np.asarray(scores, np.float64)
  shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
  return np.mean(shares / shares.sum(axis=-1, keepdims=True), axis=0)


def answer(texts, scores):
  """Returns what is said of a row by its scores [M, L]: a label, all probabilities."""
  shares = probabilities(scores).tolist()
  return {
    'prediction': texts[choice(scores)],
    'scores': dict(zip(texts, shares, strict=True)),
  }


def described(labels, scores):
  """Returns the scores [M, L] of one row in words, {label: {what: number}}."""
  tokens = labels.mask.sum(axis=1)
  return {
    text: {
      'log_likelihood': float(score),
      'per_token': float(score / count),
      'probability': float(share),
    }
    for text, score, count, share in zip(
      labels.texts, scores.mean(axis=0), tokens, probabilities(scores), strict=True
    )
  }
