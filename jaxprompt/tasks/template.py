"""The template that all arms share: source, newline, one space and the target, the end.

Source and target are tokenised apart, so that they are the same tokens in every arm. A
text that is too long is cut in the string, between tokens and never inside a character:
what is left can be read and tokenised again.
"""

import functools
import hashlib
import pathlib

from jaxprompt import errors

_NEWLINE, _SPACE = '\n', ' '


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


def check_tokenizer(tokenizer, path):
  """Refuses the tokenizer of `path` if the template's newline is nothing to it."""
  if not encode(tokenizer, _NEWLINE)[0]:
    raise errors.UserError(
      f'model.path {path!r} has a tokenizer that makes no token of a newline, which '
      'stands between source and target; use another model'
    )


class Template:
  """Renders, cuts and tokenises texts for one tokenizer."""

  def __init__(self, tokenizer):
    self.tokenizer = tokenizer
    self.end_id = tokenizer.eos_token_id

  @functools.cached_property
  def _newline(self):
    return encode(self.tokenizer, _NEWLINE)[0]

  @property
  def newline_tokens(self):
    return len(self._newline)

  @functools.cached_property
  def fingerprint(self):
    """A hash of what decides, limits apart, which tokens a text becomes."""
    digest = hashlib.sha256(pathlib.Path(__file__).read_bytes())  # also these functions
    digest.update(self.tokenizer.backend_tokenizer.to_str().encode())
    digest.update(repr(self.end_id).encode())
    return digest.hexdigest()

  def sources(self, parts, limit):
    """Tokenises many sources, each (head, tail).

    Returns:
      For each what `source` returns, or the `RowError` that it raises.
    """
    known = encode_many(self.tokenizer, [head + tail for head, tail in parts])
    return [
      _or_error(self.source, *part, limit, ids)
      for part, ids in zip(parts, known, strict=True)
    ]

  def targets(self, texts, limit):
    """Tokenises many targets; as `sources`."""
    known = encode_many(self.tokenizer, [_SPACE + text for text in texts])
    return [
      _or_error(self.target, text, limit, ids)
      for text, ids in zip(texts, known, strict=True)
    ]

  def source(self, head, tail, limit, ids=None):
    """Tokenises a source, its newline included.

    Args:
      head: is cut at its end until source and tail are at most `limit` tokens.
      tail: is never cut.
      limit: tokens, without the newline.
      ids: of head and tail, if they are known.

    Returns:
      The head, cut or not, and the ids.

    Raises:
      RowError: if the tail, or without one the first character, is longer, or if the
        source is no token.
    """
    head, ids = self._fit(head, tail, limit, ids=ids)
    return head, [*ids, *self._newline]

  def target(self, text, limit, ids=None):
    """Tokenises a space and a target, the end of text included; cut as a source."""
    text, ids = self._fit(text, '', limit, lead=_SPACE, ids=ids)
    return text, [*ids, self.end_id]

  def in_front(self, text):
    """Returns the ids of a text that stands in front of sources, and of the space."""
    return encode(self.tokenizer, text + _SPACE)[0]

  def _fit(self, text, tail, limit, lead='', ids=None):
    """Cuts `text` at its end until lead + text + tail is at most `limit` tokens."""
    if ids is None:
      ids, _ = encode(self.tokenizer, lead + text + tail)
    if not ids:
      raise errors.RowError(f'{(text + tail)!r:.60} is no token to the tokenizer')
    if len(ids) <= limit:
      return text, ids
    over = len(ids) - limit
    _, ends = encode(self.tokenizer, lead + text)
    for keep in range(len(ends) - over, -1, -1):
      cut = (lead + text)[len(lead) : ends[keep - 1]].rstrip() if keep else ''
      ids, _ = encode(self.tokenizer, lead + cut + tail)
      if len(ids) <= limit and (cut or tail):
        return cut, ids
    if not tail:
      raise errors.RowError(
        f'{text!r:.60} cannot be cut to {limit} tokens; raise data.max_source_tokens, '
        'or data.max_target_tokens of a target'
      )
    raise errors.RowError(
      f'{tail.strip()!r:.60} alone is {len(ids)} tokens and is never cut; raise '
      f'data.max_source_tokens ({limit}) to at least that'
    )


def _or_error(function, *arguments):
  try:
    return function(*arguments)
  except errors.RowError as e:
    return e
