"""What the model can do with claims it was not trained on."""

import functools
import math
import random
from collections.abc import Callable

import jax
import numpy as np

from tools.tiny import documents
from tools.tiny import pretrain

_EXAMPLES = 120

_ONE_PERSON = documents.END._replace(two_people=0.0, crowds=0.0, articles=0.0)
_TWO_PEOPLE = _ONE_PERSON._replace(two_people=1.0)

# Skill: the title of its sheets, and how to draw a source and its target.
SKILLS: dict[str, tuple[str, Callable, documents.Stage]] = {
  'reading, one person': ('Riddle', documents.draw_reading, _ONE_PERSON),
  'reading, two people': ('Riddle', documents.draw_reading, _TWO_PEOPLE),
  'summing up': ('Headline', documents.draw_news, documents.END),
  'into German': ('Phrase', documents.draw_translation, documents.END),
  'out of German': ('Satz', documents.draw_translation_back, documents.END),
}


def _measure(lm, tokenizer, params, sheets) -> tuple[np.ndarray, np.ndarray, list]:
  """Losses and hits, [B, ROW_TOKENS - 1], and the slice of every sheet's target."""
  tokens = np.zeros((len(sheets), pretrain.ROW_TOKENS), np.int32)
  spans = []
  for i, (source, target) in enumerate(sheets):
    before = tokenizer(source)['input_ids']
    ids = before + tokenizer(target + documents.END_OF_TEXT)['input_ids']
    tokens[i, : len(ids)] = ids
    spans.append(slice(len(before) - 1, len(ids) - 1))
  losses, hits = _token_losses(lm)(params, tokens)
  return np.asarray(losses), np.asarray(hits), spans


@functools.cache
def _token_losses(lm):
  return jax.jit(functools.partial(pretrain.token_losses, lm.module))


def _sheets(seed: int, skill: str) -> list[tuple[str, str]]:
  """Sheets whose claims are held out, each cut in two before its target."""
  rng = random.Random(f'{skill} {seed}')
  title, draw, stage = SKILLS[skill]
  sheets = []
  for _ in range(_EXAMPLES):
    source, target = draw(rng, stage, held_out=True)
    text = documents.sheet(title, '->', [(source, target)])
    sheets.append((text.removesuffix(f' {target}'), f' {target}'))
  return sheets


def accuracies(lm, tokenizer, params, seed: int) -> dict[str, float]:
  """The percentage of targets that greedy decoding gets right, by skill.

  A target is right when each of its tokens is the likeliest after the true ones before,
  the end of the text included, which is when greedy decoding yields just this target.
  """
  figures = {}
  for skill in SKILLS:
    _, hits, spans = _measure(lm, tokenizer, params, _sheets(seed, skill))
    right = [hits[i, span].all() for i, span in enumerate(spans)]
    figures[skill] = 100 * float(np.mean(right))
  return figures


def perplexity(lm, tokenizer, params, seed: int) -> float:
  """The perplexity per token of sheets whose claims are held out, whole documents."""
  sheets = [sheet for skill in SKILLS for sheet in _sheets(seed, skill)[:24]]
  losses, _, spans = _measure(lm, tokenizer, params, sheets)
  whole = [losses[i, : span.stop] for i, span in enumerate(spans)]
  return math.exp(np.concatenate(whole).mean())
