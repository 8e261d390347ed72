"""What the text of a compiled program says that a device sends and moves.

Where the number of a loop's rounds is not known before it runs, as that of generated
tokens, its body counts once.
"""

import math
import re
from typing import NamedTuple

# Collectives, and how many times a device sends a share of (n - 1) / n of the result's
# bytes when n devices do one in a ring.
_SENDS = {
  'all-reduce': 2,
  'all-gather': 1,
  'reduce-scatter': 1,
  'all-to-all': 1,
  'collective-permute': 1,
}
_ARRAY = re.compile(r'\b(pred|[a-z]+(\d+))\[([\d,]*)\](\{[^}]*\})?')
_COMPUTATION = re.compile(r'^(?:ENTRY )?%?([\w.\-]+) .*\{$')
_OPERATION = re.compile(r'%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(([^)]*)\)')
_NAME = re.compile(r'%([\w.\-]+)')
_CALLED = re.compile(
  r'(?:body|condition|calls|to_apply|branch_computations)=\{?(%[^,}\s]+(?:, %[^,}]+)*)'
)
_ROUNDS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_INTO = re.compile('dynamic-update-slice|(?<!reduce-)scatter')
_OUT_OF = re.compile('(?<!all-)gather|dynamic-slice')
# What moves no bytes: it names others' results, or its own computation is counted.
_NO_TRAFFIC = {
  *('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'call'),
  *('conditional', 'async-start', 'after-all', 'partition-id', 'replica-id'),
}


class Collective(NamedTuple):
  """What devices exchange at one place of a program."""

  operation: str
  size: int  # bytes of the result
  times: int  # a call of the program

  @property
  def sent(self):
    """The bytes that a device sends."""
    return _SENDS[self.operation] * self.size * self.times


def collectives(text):
  """Returns the `Collective`s of a compiled program's text."""
  found = []
  for operation in _operations_of(text):
    kind = operation.kind.removesuffix('-start')
    if kind in _SENDS:
      found.append(Collective(kind, _result_bytes(operation), operation.times))
  return found


def _result_bytes(operation):
  sizes = [size for size, _ in _arrays(operation.shape)]
  # The start of any other than these holds its operand beside its result.
  whole = operation.kind in (*_SENDS, 'all-reduce-start')
  return sum(sizes) if whole else max(sizes)


def traffic(text):
  """Returns the bytes that a compiled program reads from and writes to memory.

  What stays in a TPU's memory on the chip is not among them. Of an array that is
  gathered from or scattered into, only those rows count.
  """
  total = 0
  for operation in _operations_of(text):
    kind = operation.kind
    if operation.fused or kind in _NO_TRAFFIC or kind.endswith('-done'):
      continue
    result, operands = _arrays(operation.shape), operation.operands
    if kind == 'copy-start':  # (result, operand, context)
      result = result[:1]
    elif kind == 'slice-start':  # ((operand), result, context)
      result = result[1:2]
      operands = [(size, True) for size, _ in result]
    elif kind.endswith('-start'):
      result = [max(result)]
    elif _INTO.search(operation.name):
      whole, _ = max(result)
      result = operands = [x for x in operands if x[0] < whole]
    elif _OUT_OF.search(operation.name):
      whole, _ = max(result)
      operands = [(min(size, whole), far) for size, far in operands]
    total += operation.times * sum(size for size, far in [*result, *operands] if far)
  return total


class _Operation(NamedTuple):
  name: str  # of a fusion, says what is in it
  kind: str  # such as 'fusion'
  shape: str  # of the result
  operands: list  # of each array, its bytes and whether it is off the chip
  times: int  # a call of the program
  fused: bool  # a part of another operation


def _operations_of(text):
  """Yields all `_Operation`s of a compiled program's text."""
  lines, calls, entry = _computations(text)
  times, fused = dict.fromkeys(lines, 0), set()

  def count(name, rounds):
    times[name] += rounds
    for called, own, is_fusion in calls[name]:
      if is_fusion:
        fused.add(called)
      count(called, rounds * own)

  count(entry, 1)
  for name, own in lines.items():
    arrays = {}
    for line in own:
      match = _OPERATION.search(line)
      if match:
        result, shape, kind, operands = match.groups()
        arrays[result] = _arrays(shape)
        found = [x for each in _NAME.findall(operands) for x in arrays.get(each, ())]
        yield _Operation(result, kind, shape, found, times[name], name in fused)


def _computations(text):
  """Returns {name: lines}, {name: [(what it calls, rounds, if fused)]}, the entry."""
  lines, calls, entry, name = {}, {}, None, None
  for line in text.splitlines():
    begin = _COMPUTATION.match(line)
    if begin:
      name = begin[1]
      lines[name], calls[name] = [], []
      entry = name if line.startswith('ENTRY') else entry
    elif name is not None:
      lines[name].append(line)
      rounds = _ROUNDS.search(line)
      calls[name] += [
        (called.strip(' %'), int(rounds[1]) if rounds else 1, ' fusion(' in line)
        for found in _CALLED.findall(line)
        for called in found.split(',')
      ]
  return lines, calls, entry


def _arrays(shape):
  """Returns of each array of a shape its bytes, and whether it is off the chip."""
  found = []
  for kind, bits, lengths, layout in _ARRAY.findall(shape):
    width = 1 if kind == 'pred' else int(bits) / 8
    count = math.prod(int(n) for n in lengths.split(',') if n)
    found.append((math.ceil(width * count), 'S(' not in layout))
  return found
