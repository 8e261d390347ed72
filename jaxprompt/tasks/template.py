"""The template that all arms share: source, newline, one space and the target, the end.

Source and target are tokenised apart, so that they are the same tokens in every arm. A
text that is too long is cut in the string, between tokens and never inside a character:
what is left can be read and tokenised again.
"""

import functools

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


def check_tokenizer(tokenizer, path):
  """Refuses the tokenizer of `path` if the template's newline is nothing to it."""
  if not encode(tokenizer, _NEWLINE)[0]:
    raise errors.UserError(
      f'model.path {path!r} has a tokenizer that makes no token of a newline, which '
      'stands between source and target; use another model'
    )


class Template:
  """Renders, cuts and tokenises texts for one tokenizer."""

  def __init__(self, tokenizer, end_ids=None):
    """Takes a fast tokenizer, and all ids that end a text if there are several."""
    self.tokenizer = tokenizer
    self.end_id = tokenizer.eos_token_id  # of a target
    self.end_ids = end_ids or (self.end_id,)

  @functools.cached_property
  def _newline(self):
    return encode(self.tokenizer, _NEWLINE)[0]

  @property
  def empty_source(self):
    """The ids of a source without content: the newline alone."""
    return list(self._newline)

  @property
  def newline_tokens(self):
    return len(self._newline)

  def source(self, before, text, after, limit):
    """Tokenises a source, its newline included.

    Args:
      before, after: what stands around the text and is never cut.
      text: is cut at its end until the source is at most `limit` tokens.
      limit: tokens, without the newline.

    Returns:
      The text, cut or not, and the ids.

    Raises:
      RowError: if what is never cut, or without it the first character, is longer, or
        if the source is no token.
    """
    text, ids = self._fit(before, text, after, limit)
    return text, [*ids, *self._newline]

  def target(self, text, limit):
    """Tokenises a space and a target, the end of text included; cut as a source.

    Without a limit (None) it is not cut.
    """
    text, ids = self._fit(_SPACE, text, '', limit)
    return text, [*ids, self.end_id]

  def in_front(self, text):
    """Returns the ids of a text that stands in front of sources, and of the space."""
    return encode(self.tokenizer, text + _SPACE)[0]

  def _fit(self, before, text, after, limit):
    """Cuts `text` at its end until before + text + after is at most `limit` tokens."""
    ids, _ = encode(self.tokenizer, before + text + after)
    if not ids:
      raise errors.RowError(f'{(text + after)!r:.60} is no token to the tokenizer')
    if limit is None or len(ids) <= limit:
      return text, ids
    over = len(ids) - limit
    _, ends = encode(self.tokenizer, before + text)
    uncut = (before + after).strip()
    for keep in range(len(ends) - over, -1, -1):
      cut = (before + text)[len(before) : ends[keep - 1]].rstrip() if keep else ''
      ids, _ = encode(self.tokenizer, before + cut + after)
      if len(ids) <= limit and (cut or uncut):
        return cut, ids
    if not uncut:
      raise errors.RowError(
        f'{text!r:.60} cannot be cut to {limit} tokens; raise data.max_source_tokens, '
        'or data.max_target_tokens of a target'
      )
    raise errors.RowError(
      f'{uncut!r:.60} alone is {len(ids)} tokens and is never cut; raise '
      f'data.max_source_tokens ({limit}) to at least that'
    )
