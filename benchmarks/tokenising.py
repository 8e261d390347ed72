"""How fast rows become tokens, and what memory they take: synthetic pairs of texts.

python benchmarks/tokenising.py MODEL_DIR [ROWS]
"""

import ctypes
import gc
import json
import pathlib
import sys
import tempfile
import time

import numpy as np
import psutil
import transformers

from jaxprompt.data import rows as rows_lib
from jaxprompt.data import sources
from jaxprompt.tasks import tasks
from jaxprompt.tasks import template

WORDS = 15  # of a text, about


def write_pairs(tokenizer, count, file):
  """Writes rows of the translation task; frequent words are drawn more often."""
  vocabulary = [
    word[1:] for word in tokenizer.get_vocab() if word[0] == 'Ġ' and word[1:].isalpha()
  ]
  rng = np.random.default_rng(0)
  words = np.array(sorted(vocabulary), object)[rng.permutation(len(vocabulary))]

  def text():
    ranks = len(words) ** rng.random(rng.integers(WORDS - 5, WORDS + 6))  # Zipf's law
    return ' '.join(words[ranks.astype(int) - 1])

  with file.open('w') as f:
    for _ in range(count):
      f.write(json.dumps({'translation': {'en': text(), 'de': text()}}) + '\n')


def resident():
  """Returns the process's bytes of memory, without what is free again."""
  gc.collect()
  ctypes.CDLL(None).malloc_trim(0)
  return psutil.Process().memory_info().rss


def main(model, count='500000'):
  tokenizer = transformers.AutoTokenizer.from_pretrained(model)
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / 'pairs.jsonl'
    write_pairs(tokenizer, int(count), file)
    before = resident()
    split = sources.read_file(file)
  print(f'{(resident() - before) / int(count):.0f} bytes a row as it is read')
  began, cpu = time.perf_counter(), time.process_time()
  rows = rows_lib.load(
    template.Template(tokenizer),
    tasks.TASKS['translation'],
    split,
    size=0,
    max_source_tokens=128,
    max_target_tokens=128,
  )
  fingerprint = rows.fingerprint
  seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
  tokens = sum(row.length for row in rows.rows[:1000]) / 1000
  del split
  print(
    f'{len(rows.rows):,} rows of {tokens:.1f} tokens: {len(rows.rows) / seconds:,.0f} '
    f'rows/s, {cpu / len(rows.rows) * 1e6:.0f} us of CPU and '
    f'{(resident() - before) / len(rows.rows):.0f} bytes a row, fingerprint '
    f'{fingerprint[:12]}'
  )


if __name__ == '__main__':
  main(*sys.argv[1:])
