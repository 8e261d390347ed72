"""Classification: every label of a task by its likelihood after a source.

The source is run once; each label's tokens follow it over the KV cache, so that no text
is generated and no answer is outside of the labels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.data import collate
from jaxprompt.prompts import model


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

  def tokens(self, i):
    """Returns the ids of label i without the end of text."""
    return self.input_ids[i][self.mask[i]][:-1].tolist()


def tokenise(template, texts):
  """Returns the `Labels` of texts, by a `template.Template`."""
  ids = [template.target(text, None)[1] for text in texts]
  longest = max(map(len, ids))
  return Labels(tuple(texts), *collate.pad(ids, longest, len(ids), template.end_id))


def log_likelihoods(
  lm, labels, params, placement, input_ids, attention_mask, calibrate=None
):
  """Scores every label after every row's source.

  Args:
    lm: `lm.model.LanguageModel`.
    labels: `Labels`.
    params: the frozen weights.
    placement: `placement.Placement`, shared or of each row.
    input_ids, attention_mask: of the sources, [B, T], padded on either side.
    calibrate: ids of a source without content, [C], whose scores are taken off; or
      None. Zhao et al. 2021, "Calibrate Before Use" (arXiv:2102.09690).

  Returns:
    Sums over the labels' tokens, [B, L] float32, in nats.
  """
  own = (lm, labels, params, placement)
  found = _sums(*own, input_ids, attention_mask)
  if calibrate is None:
    return found
  empty = jnp.broadcast_to(jnp.asarray(calibrate), (len(input_ids), len(calibrate)))
  return found - _sums(*own, empty, jnp.ones(empty.shape, bool))


def _sums(lm, labels, params, placement, input_ids, attention_mask):
  last, context = model.prompted_source(
    lm, params, placement, input_ids, attention_mask
  )

  def one(label):
    ids, mask = (jnp.broadcast_to(x, (len(input_ids), len(x))) for x in label)  # [B, N]
    embeds = lm.embed(params, ids[:, :-1])
    hidden, _ = model.hidden_states(
      lm, params, embeds, mask[:, :-1], context=context
    )  # [B, N - 1, H]
    hidden = jnp.concatenate([last[:, None], hidden], axis=1)  # [B, N, H]
    nats = model.token_losses(lm, params, hidden, ids)
    return -jnp.sum(nats * mask, axis=1)

  # One after the other: the cache of the sources is not copied for each.
  sums = jax.lax.map(one, (jnp.asarray(labels.input_ids), jnp.asarray(labels.mask)))
  return sums.T  # [B, L]


def probabilities(scores):
  """Returns each label's share of the likelihood of all of them, [..., L]."""
  scores = np.asarray(scores, np.float64)
  shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
  return shares / shares.sum(axis=-1, keepdims=True)


def answer(texts, scores):
  """Returns what is said of a row: the likeliest label, and all probabilities."""
  shares = probabilities(scores).tolist()
  return {
    'prediction': texts[int(np.argmax(scores))],
    'scores': dict(zip(texts, shares, strict=True)),
  }


def described(labels, scores):
  """Returns the scores [L] of one row in words, {label: {what: number}}."""
  tokens = labels.mask.sum(axis=1)
  return {
    text: {
      'log_likelihood': float(score),
      'per_token': float(score / count),
      'probability': float(share),
    }
    for text, score, count, share in zip(
      labels.texts, scores, tokens, probabilities(scores), strict=True
    )
  }


CALIBRATIONS = ('none', 'content_free')


def program(lm, template, texts, calibration):
  """Returns (params, placement, (ids, mask)) -> scores [B, L]; see `log_likelihoods`.

  Args:
    lm: `lm.model.LanguageModel`.
    template: `template.Template`.
    texts: of the labels.
    calibration: one of `CALIBRATIONS`.
  """
  labels = tokenise(template, texts)
  calibrate = template.empty_source if calibration == 'content_free' else None

  def run(params, placement, rows):
    return log_likelihoods(lm, labels, params, placement, *rows, calibrate=calibrate)

  return run
