"""From a split's rows to tokens: what was cut, and what could not be used."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from jaxprompt import errors


@dataclasses.dataclass(frozen=True)
class Row:
  """One example as it is tokenised: the strings, and the ids they became."""

  id: str
  source: str
  target: str
  references: tuple[str, ...]
  source_ids: np.ndarray  # [.] int32: the source, then the newline
  target_ids: np.ndarray  # [.] int32: one space and the target, then the end of text

  @property
  def length(self):
    return len(self.source_ids) + len(self.target_ids)


@dataclasses.dataclass(frozen=True)
class Rows:
  """A split's rows, and how many were cut, being too long, or left out."""

  rows: Sequence[Row]
  sources_cut: int
  targets_cut: int
  skipped: int

  @property
  def fingerprint(self):
    """A hash of the rows' texts, wherever they lie."""
    digest = hashlib.sha256()
    for row in self.rows:
      digest.update(repr((row.id, row.source, row.target, row.references)).encode())
    return digest.hexdigest()


def load(
  template, task, split, *, size, max_source_tokens, max_target_tokens, skip=False
):
  """Tokenises the first rows of a split.

  Args:
    template: `template.Template`.
    task: a `tasks.Task`.
    split: a `sources.Split`.
    size: the most rows to take, 0 for all.
    max_source_tokens, max_target_tokens: longer ones are cut.
    skip: leave out rows that cannot be used, and count them.

  Returns:
    `Rows`.

  Raises:
    UserError: names the row that cannot be used, the first of all if none can.
  """
  rows, problems, sources_cut, targets_cut = [], [], 0, 0
  available = len(split.rows)
  for i in range(min(size or available, available)):
    try:
      row = split.rows[i]
      if isinstance(row, errors.RowError):
        raise row
      example = task.parse(row, split.number(i))
      text, source_ids = template.source(
        example.before, example.text, example.after, max_source_tokens
      )
      target, target_ids = template.target(example.target, max_target_tokens)
    except errors.RowError as e:
      problems.append(f'{split.where(i)}: {e}')
      if skip:
        continue
      raise errors.UserError(
        f'{problems[0]}; correct it, or set data.bad_rows=skip'
      ) from e
    sources_cut += text != example.text
    targets_cut += target != example.target
    rows.append(
      Row(
        id=example.id,
        source=example.before + text + example.after,
        target=target,
        references=example.references,
        source_ids=np.asarray(source_ids, np.int32),
        target_ids=np.asarray(target_ids, np.int32),
      )
    )
  if not rows:
    raise errors.UserError(f'{problems[0]}; no row of this split can be used')
  return Rows(rows, sources_cut, targets_cut, len(problems))
