"""The template that all arms share: source, newline, one space and the target, the end.

Tokens are those of the text as a user of the model would give it: source and newline as
one text, the target as what goes on after a newline. So they are the same in every arm,
also where a tokenizer puts a piece for a space in front of every text. A text that is
too long is cut in the string, between tokens and never inside a character: what is left
can be read and tokenised again.
"""

import functools
import hashlib
import pathlib

from jaxprompt import errors

SPACE = ' '  # between newline and target, and after a text in front
_NEWLINE = '\n'


def encode(tokenizer, text):
  """Returns the token ids of a text alone, and where in it each token ends.

  No token is added, and text that spells a special token stays text.
  """
  encoding = tokenizer(
    text,
    add_special_tokens=False,
    split_special_tokens=True,
    return_offsets_mapping=True,
    verbose=False,
  )
  return encoding['input_ids'], [end for _, end in encoding['offset_mapping']]


def encode_many(tokenizer, texts):
  """Returns the token ids of each text alone, the same as `encode`'s, in less time."""
  backend = tokenizer.backend_tokenizer
  backend.no_truncation()  # which its file may ask for, as for padding
  backend.no_padding()
  backend.encode_special_tokens = True
  return [x.ids for x in backend.encode_batch_fast(texts, add_special_tokens=False)]


class Template:
  """Renders, cuts and tokenises texts for one tokenizer."""

  def __init__(self, tokenizer, end_ids=None):
    """Takes a fast tokenizer, and all ids that end a text if there are several."""
    self.tokenizer = tokenizer
    self.end_id = tokenizer.eos_token_id  # of a target
    self.end_ids = end_ids or (self.end_id,)

  @functools.cached_property
  def start_ids(self):
    """The ids that the tokenizer puts in front of every text, such as a BOS."""
    whole, bare = self.tokenizer('a')['input_ids'], self._letter
    starts = [i for i in range(len(whole)) if whole[i : i + len(bare)] == bare]
    return tuple(whole[: starts[0]]) if starts else ()

  @functools.cached_property
  def _newline(self):
    return encode(self.tokenizer, _NEWLINE)[0]

  @functools.cached_property
  def _letter(self):
    return encode(self.tokenizer, 'a')[0]

  @property
  def empty_source(self):
    """The ids of a source without content: the newline alone."""
    return [*self.start_ids, *self._newline] or [self.end_id]

  @functools.cached_property
  def newline_tokens(self):
    """How many tokens the newline after a source is; 0 to some tokenizers."""
    return len(encode(self.tokenizer, 'a\n')[0]) - len(self._letter)

  @functools.cached_property
  def closing_ids(self):
    """The ids of the newline after a source, where it is not one with the text."""
    return self.inside(_NEWLINE)

  def closes(self, text):
    """Returns whether the newline after a text is tokens of its own.

    To Llama 3's and Qwen's tokenizers it is one with punctuation before it.
    """
    ids, _ = encode(self.tokenizer, text + _NEWLINE)
    return ids == [*encode(self.tokenizer, text)[0], *self.closing_ids]

  @property
  def frame_tokens(self):
    """How many tokens a source has besides its own: the start, and the newline."""
    return len(self.start_ids) + self.newline_tokens

  def room(self, positions, around, new_tokens):
    """Returns how many tokens of a source positions leave room for; none if it is < 1.

    Args:
      positions: of the model.
      around: tokens of the prompt.
      new_tokens: of the answer.
    """
    return positions - around - self.frame_tokens - new_tokens

  def answer_tokens(self, labels, most):
    """Returns how long an answer may be: `most`; labels, which are ranked, as they are.

    Args:
      labels: of the task, or none.
      most: the tokens that are generated.
    """
    return max((len(self.target(x, None)[1]) for x in labels), default=most)

  @functools.cached_property
  def fingerprint(self):
    """A hash of what decides, limits apart, which tokens a text becomes."""
    digest = hashlib.sha256(pathlib.Path(__file__).read_bytes())  # also these functions
    digest.update(self.tokenizer.backend_tokenizer.to_str().encode())
    digest.update(repr((self.start_ids, self.end_id)).encode())
    return digest.hexdigest()

  def sources(self, parts, limit):
    """Tokenises many sources, each (before, text, after).

    Returns:
      For each what `source` returns, or the `RowError` that it raises.
    """
    known = encode_many(self.tokenizer, [''.join(part) + _NEWLINE for part in parts])
    return [
      _or_error(self.source, *part, limit, ids)
      for part, ids in zip(parts, known, strict=True)
    ]

  def inside(self, text):
    """Returns the ids of a text that goes on after another one, whatever that is."""
    whole = encode(self.tokenizer, 'a' + text)[0]
    if whole[: len(self._letter)] == self._letter:
      return whole[len(self._letter) :]
    return encode(self.tokenizer, text)[0]

  def targets(self, texts, limit):
    """Tokenises many targets; as `sources`."""
    known = encode_many(self.tokenizer, [_NEWLINE + SPACE + text for text in texts])
    return [
      _or_error(self.target, text, limit, ids)
      for text, ids in zip(texts, known, strict=True)
    ]

  def source(self, before, text, after, limit, ids=None):
    """Tokenises a source, with what the tokenizer begins with and the newline.

    Args:
      before, after: what stands around the text and is never cut.
      text: is cut at its end until the source is at most `limit` tokens.
      limit: tokens of the source itself.
      ids: of the whole source and its newline, if they are known.

    Returns:
      The text, cut or not, and the ids.

    Raises:
      RowError: if what is never cut, or without it the first character, is longer, or
        if the source is no token.
    """
    extra = self.newline_tokens
    text, ids = self._fit((before, text, after + _NEWLINE), limit, extra, ids)
    if len(ids) <= extra:
      raise errors.RowError(f'{(text + after)!r:.60} is no token to the tokenizer')
    return text, [*self.start_ids, *ids]

  def target(self, text, limit, ids=None, lead=SPACE):
    """Tokenises a space and a target, the end of text included; cut as a source.

    Args:
      text: the target.
      limit: tokens, without the end of text; None = it is not cut.
      ids: of the target after a newline and a space, if they are known.
      lead: what it begins with, if it is not a space.
    """
    extra = len(self._newline)
    cut, ids = self._fit((_NEWLINE + lead, text, ''), limit, extra, ids)
    if ids[:extra] == self._newline:
      text, ids = cut, ids[extra:]
    else:  # the newline is one token with what follows
      text, ids = self._fit((lead, text, ''), limit, 0)
    if not ids:
      raise errors.RowError(f'{text!r:.60} is no token to the tokenizer')
    return text, [*ids, self.end_id]

  def in_front(self, text):
    """Returns the ids of a text that stands in front of sources, and of the space."""
    whole, alone = encode(self.tokenizer, f'{text} a')[0], self._letter
    if whole[-len(alone) :] == alone:  # a source brings the space as its own piece
      return whole[: -len(alone)]
    return encode(self.tokenizer, text + SPACE)[0]

  def _fit(self, parts, limit, extra, ids=None):
    """Cuts a text at its end until all is at most `limit + extra` tokens.

    Args:
      parts: what stands before the text, the text, and what stands after it.
      limit: tokens that count; None = no limit.
      extra: tokens that do not count, of a newline.
      ids: of all, if they are known.

    Returns:
      The text, and the ids of all.
    """
    before, text, after = parts
    if ids is None:
      ids, _ = encode(self.tokenizer, before + text + after)
    if limit is None or len(ids) <= limit + extra:
      return text, ids
    over = len(ids) - limit - extra
    _, ends = encode(self.tokenizer, before + text)
    uncut = (before + after).strip()
    for keep in range(max(len(ends) - over, 0), -1, -1):
      cut = (before + text)[len(before) : ends[keep - 1]].rstrip() if keep else ''
      ids, _ = encode(self.tokenizer, before + cut + after)
      if len(ids) <= limit + extra and (cut or uncut):
        return cut, ids
    if not uncut:
      raise errors.RowError(
        f'{text!r:.60} cannot be cut to {limit} tokens; raise data.max_source_tokens, '
        'or data.max_target_tokens of a target'
      )
    raise errors.RowError(
      f'{uncut!r:.60} alone is {len(ids) - extra} tokens and is never cut; raise '
      f'data.max_source_tokens ({limit}) to at least that'
    )


def _or_error(function, *arguments):
  try:
    return function(*arguments)
  except errors.RowError as e:
    return e
