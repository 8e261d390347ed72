"""The template that all arms share: source, newline, one space and the target, the end.

Source and target are tokenised apart, so that they are the same tokens in every arm. A
text that is too long is cut in the string, between tokens and never inside a character:
what is left can be read and tokenised again.
"""

import functools

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

  def source(self, head, tail, limit):
    """Tokenises a source, its newline included.

    Args:
      head: is cut at its end until source and tail are at most `limit` tokens.
      tail: is never cut.
      limit: tokens, without the newline.

    Returns:
      The head, cut or not, and the ids.

    Raises:
      RowError: if the tail, or without one the first character, is longer, or if the
        source is no token.
    """
    head, ids = self._fit(head, tail, limit)
    return head, [*ids, *self._newline]

  def target(self, text, limit):
    """Tokenises a space and a target, the end of text included; cut as a source."""
    text, ids = self._fit(text, '', limit, lead=SPACE)
    return text, [*ids, self.end_id]

  def in_front(self, text):
    """Returns the ids of a text that stands in front of sources, and of the space."""
    return encode(self.tokenizer, text + SPACE)[0]

  def _fit(self, text, tail, limit, lead=''):
    """Cuts `text` at its end until lead + text + tail is at most `limit` tokens."""
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
