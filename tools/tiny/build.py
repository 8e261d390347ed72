"""Builds the package's embedded default: data sets, tokenizer and pretrained model.

    python -m tools.tiny.build --workdir=DIR

Everything is a function of the seed. The work directory holds the tokenizer, the tokens
and the last checkpoint: run the command again and it goes on from there.

With `--width=64 --output=DIR` it trains a smaller model of the same world, as
`benchmarks/scale.py` takes several, and leaves the package as it is.
"""

import itertools
import json
import pathlib
import string

import jax
import numpy as np
import safetensors.numpy
import tokenizers
import transformers
from absl import app
from absl import flags
from absl import logging
from flax import traverse_util

from tools.tiny import datasets
from tools.tiny import documents
from tools.tiny import guides
from tools.tiny import heldout
from tools.tiny import pretrain

SEED = 0
DOCUMENTS = 150_000
_VOCAB_SIZE = 1344
_TOKENIZER_DOCUMENTS = 20_000
_NAMES_REPEATED = 200
_CHECKPOINT_EVERY = 325  # steps: a million tokens

PACKAGE = pathlib.Path(__file__).parents[2] / 'jaxprompt' / 'tiny'
_CARD = pathlib.Path(__file__).with_name('model_card.md')
_WORKDIR = flags.DEFINE_string('workdir', None, 'where unfinished work is kept')
_OUTPUT = flags.DEFINE_string('output', str(PACKAGE / 'model'), "the model's directory")
_WIDTH = flags.DEFINE_integer('width', pretrain.WIDTH, "the embeddings' width")


def write_datasets(directory: pathlib.Path, seed: int) -> None:
  for task in datasets.TASKS:
    (directory / task).mkdir(parents=True, exist_ok=True)
    for split, rows in datasets.splits(seed, task).items():
      lines = (f'{json.dumps(row, ensure_ascii=False)}\n' for row in rows)
      file = directory / task / f'{split}.jsonl'
      file.write_text(''.join(lines), encoding='utf-8', newline='\n')


def train_tokenizer(seed: int) -> transformers.PreTrainedTokenizerFast:
  """A byte-level BPE like GPT-2's own, with its end-of-text token."""
  bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
  byte_level = tokenizers.pre_tokenizers.ByteLevel
  bpe.pre_tokenizer = byte_level(add_prefix_space=False)
  bpe.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=_VOCAB_SIZE,
    special_tokens=[documents.END_OF_TEXT],
    initial_alphabet=sorted(byte_level.alphabet()),
    show_progress=False,
  )
  # Names by themselves, so that one at a line's start becomes a single token, too.
  sample = documents.sample(seed, _TOKENIZER_DOCUMENTS)
  names = guides.NAMES * _NAMES_REPEATED
  bpe.train_from_iterator(itertools.chain(sample, names), trainer)
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=bpe,
    bos_token=documents.END_OF_TEXT,
    eos_token=documents.END_OF_TEXT,
    unk_token=documents.END_OF_TEXT,
    model_max_length=pretrain.ROW_TOKENS,
    clean_up_tokenization_spaces=False,
  )


def name_ids(tokenizer) -> np.ndarray:
  """The ids of names' first tokens, as `guides.places` takes them."""
  ids = [[-1, -1]]
  for name in guides.NAMES:
    starts = tokenizer([name, f' {name}'])['input_ids']
    ids.append([start[0] for start in starts])
  return np.array(ids)


def pytorch_names(params: pretrain.Params) -> dict[str, np.ndarray]:
  """The weights under PyTorch GPT-2's names, which both frameworks load.

  Flax keeps GPT-2's kernels as [out, in], PyTorch as [in, out].
  """
  leaves = {'embedding': 'weight', 'scale': 'weight', 'kernel': 'weight'}
  weights = {}
  for path, value in traverse_util.flatten_dict(params).items():
    *modules, leaf = path
    name = '.'.join((*modules, leaves.get(leaf, leaf)))
    array = np.asarray(value, np.float32)
    weights[name] = np.ascontiguousarray(array.T if leaf == 'kernel' else array)
  return weights


def write_model(directory: pathlib.Path, lm, tokenizer, params) -> None:
  directory.mkdir(parents=True, exist_ok=True)
  config = lm.config
  config.architectures = ['GPT2LMHeadModel']
  config.save_pretrained(directory)
  tokenizer.save_pretrained(directory)
  safetensors.numpy.save_file(
    pytorch_names(params), directory / 'model.safetensors', metadata={'format': 'pt'}
  )


def write_card(
  directory: pathlib.Path,
  width: int,
  tokens: int,
  perplexity: float,
  skills: dict[str, float],
) -> None:
  rows = '\n'.join(f'| {name} | {value:.0f} |' for name, value in skills.items())
  card = string.Template(_CARD.read_text(encoding='utf-8')).substitute(
    width=width,
    tokens=f'{tokens / 1e6:.1f}',
    perplexity=f'{perplexity:.3f}',
    skills=rows,
  )
  (directory / 'README.md').write_text(card, encoding='utf-8')


def prepare(workdir: pathlib.Path, seed: int) -> tuple:
  """The tokenizer and the packed rows, from the work directory if they are there."""
  vocabulary, rows = workdir / 'tokenizer', workdir / 'rows.npy'
  if rows.exists():
    loaded = transformers.PreTrainedTokenizerFast.from_pretrained(vocabulary)
    return loaded, np.load(rows)
  tokenizer = train_tokenizer(seed)
  tokenizer.save_pretrained(vocabulary)
  packed = pretrain.pack(documents.stream(seed, DOCUMENTS), tokenizer)
  np.save(rows, packed)
  return tokenizer, packed


def build(workdir: pathlib.Path, output: pathlib.Path, width: int, seed: int) -> None:
  workdir.mkdir(parents=True, exist_ok=True)
  if output.parent == PACKAGE:
    write_datasets(PACKAGE / 'data', seed)
  tokenizer, rows = prepare(workdir, seed)
  logging.info('%.1fM tokens in %d rows', rows[:, 0].size / 1e6, len(rows))
  lm = pretrain.model(len(tokenizer), tokenizer.eos_token_id, width)

  def measure(params):
    return heldout.accuracies(lm, tokenizer, params, seed)

  params = pretrain.train(
    lm,
    rows,
    name_ids(tokenizer),
    seed,
    workdir / 'checkpoint.msgpack',
    measure,
    every=_CHECKPOINT_EVERY,
  )
  perplexity = heldout.perplexity(lm, tokenizer, params, seed)
  logging.info('held-out perplexity: %.3f', perplexity)
  write_model(output, lm, tokenizer, jax.device_get(params))
  write_card(output, width, rows[:, 0].size, perplexity, measure(params))


def main(_) -> None:
  logging.set_verbosity(logging.INFO)
  output = pathlib.Path(_OUTPUT.value).absolute()
  build(pathlib.Path(_WORKDIR.value), output, _WIDTH.value, SEED)


if __name__ == '__main__':
  flags.mark_flag_as_required('workdir')
  app.run(main)
