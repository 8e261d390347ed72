"""A checkpoint with a prompt in it: any engine that loads it does the task.

The virtual tokens are rows of the embedding table. The tokenizer has a special token
for each, and puts them around a text with what else the template has there. The head is
stored apart from the table, and never chooses them.
"""

import itertools
import json
import re

import numpy as np
import safetensors.numpy
import tokenizers
import transformers

from jaxprompt import errors
from jaxprompt.lm import files
from jaxprompt.lm import model as model_lib
from jaxprompt.lm import weights
from jaxprompt.prompts import exported

WHAT = 'a merged checkpoint'
_CONFIG, _GENERATION = 'config.json', 'generation_config.json'
_OURS = re.compile(
  r'config\.json|generation_config\.json|README\.md|tokenizer\.json'
  r'|tokenizer_config\.json|special_tokens_map\.json|chat_template\.jinja'
  r'|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json'
)
_SHARD = 2**30  # bytes of weights in a file, and in memory
_CARD = """---
base_model: {base}
library_name: transformers
tags:
- prompt-tuning
{tag}---

# {base}, {name}

`{base}` with a soft prompt of {length} virtual tokens for the task {task}, trained with
jaxprompt. The tokenizer puts them {where} a text, so that the model does the task:

```python
import transformers

tokenizer = transformers.AutoTokenizer.from_pretrained(PATH)
model = transformers.AutoModelForCausalLM.from_pretrained(PATH)
inputs = tokenizer({source}, return_tensors='pt')
output = model.generate(**inputs, do_sample=False)[0, inputs['input_ids'].shape[1] :]
print(tokenizer.decode(output, skip_special_tokens=True).strip())
```

{newline}
An engine that does not do as the post-processor in tokenizer.json says, or is told to
add no special tokens, needs them in the text:

{literal}

The template of the training rows:

{template}
"""
_ADDED = 'The tokenizer adds the newline that follows a text in the template.\n'
_NOT_ADDED = """The text has to end with a newline: to this tokenizer that can be one
token with what is before it, which no post-processor adds.
"""


def is_ours(directory, names):
  """Returns whether a directory of such names is one of `write`, and no more."""
  return (
    exported.README in names
    and all(map(_OURS.fullmatch, names))
    and exported.is_tagged(directory)
  )


def write(directory, prompt, *, path, lm, template, unchosen, texts):
  """Writes a checkpoint's files into an empty directory.

  The source is read one array at a time.

  Args:
    directory: a pathlib path.
    prompt: `trained.TrainedPrompt` of virtual tokens.
    path: of the source checkpoint: a hub id or a local directory.
    lm: its `lm.model.LanguageModel`.
    template: `template.Template` of its tokenizer.
    unchosen: a row of the head that is never chosen, [H].
    texts: sources; whether the newline after them can be added is seen of them.

  Raises:
    UserError: if the prompt has numbers that the checkpoint's type cannot hold.
  """
  adds_newline = all(map(template.closes, (*_ENDS, *texts)))
  tokenizer, tokens = _tokenizer(template, prompt, adds_newline)
  ids = [tokenizer.token_to_id(token) for token in tokens]
  size = max(lm.spec.vocab_size, *(id + 1 for id in ids))
  _write_weights(directory, _arrays(path, lm, prompt, ids, size, unchosen))
  _save_tokenizer(directory, _wrapped(tokenizer, template.tokenizer))
  texts = {
    name: json.dumps(content, indent=2)
    for name, content in _configs(path, lm, prompt, size).items()
  }
  texts[exported.README] = _card(path, template, prompt, tokens, adds_newline)
  for name, text in texts.items():
    (directory / name).write_text(text, encoding='utf-8')


# What a text may end with; of others it is seen in the rows.
_ENDS = tuple(chr(code) for code in range(ord('!'), ord('~') + 1))


def _tokenizer(template, prompt, adds_newline):
  """Returns the tokenizer with the virtual tokens, and how they are spelled."""
  made = tokenizers.Tokenizer.from_str(template.tokenizer.backend_tokenizer.to_str())
  made.no_truncation()
  made.no_padding()
  tokens = _spelled(made, prompt.task.name, len(prompt.arrays['embeddings']))
  made.add_special_tokens([tokenizers.AddedToken(x, special=True) for x in tokens])
  virtual = [made.token_to_id(token) for token in tokens]
  before = list(template.start_ids)
  after = list(template.closing_ids) if adds_newline else []
  if prompt.position == 'prefix':
    before = virtual + before
  else:
    after = after + virtual
  sides = {'before': before, 'after': after}
  made.post_processor = tokenizers.processors.TemplateProcessing(
    single=' '.join(['before'] * bool(before) + ['$A'] + ['after'] * bool(after)),
    special_tokens=[
      {'id': name, 'ids': ids, 'tokens': [made.id_to_token(id) for id in ids]}
      for name, ids in sides.items()
    ],
  )
  return made, tokens


def _spelled(tokenizer, name, length):
  """Returns texts of virtual tokens that the tokenizer does not have yet."""
  stems = itertools.chain([name], (f'{name}-{i}' for i in itertools.count(2)))
  spelled = ([f'<|{stem}:{i}|>' for i in range(length)] for stem in stems)
  return next(
    tokens
    for tokens in spelled
    if all(tokenizer.token_to_id(token) is None for token in tokens)
  )


def _wrapped(made, source):
  """Returns what saves a tokenizer's files, with the settings of its source.

  Of the general class: others replace the post-processor by one of their own.
  """
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=made,
    chat_template=source.chat_template,
    model_max_length=source.model_max_length,
    padding_side=source.padding_side,
    clean_up_tokenization_spaces=source.clean_up_tokenization_spaces,
    **source.special_tokens_map,
  )


def _save_tokenizer(directory, wrapped):
  """Writes a tokenizer's files as both lines of transformers read them."""
  wrapped.save_pretrained(directory)
  file = directory / 'tokenizer_config.json'
  content = json.loads(file.read_text(encoding='utf-8'))
  # 5 knows the class by this name too, 4.57 by no other.
  content['tokenizer_class'] = 'PreTrainedTokenizerFast'
  file.write_text(json.dumps(content, indent=2), encoding='utf-8')


def _configs(path, lm, prompt, size):
  """Returns {file: its content} of the model's and of generation's settings."""
  config = files.read_json(path, _CONFIG)
  generation = files.read_json(path, _GENERATION) or {}
  inherited = ('bos_token_id', 'pad_token_id')
  ends = list(lm.end_ids)
  never = {*(generation.get('suppress_tokens') or ()), *range(lm.tokens, size)}
  return {
    _CONFIG: {**config, 'vocab_size': size, 'tie_word_embeddings': False},
    _GENERATION: {
      **{name: config[name] for name in inherited if name in config},
      **generation,
      'eos_token_id': ends if len(ends) > 1 else ends[0],
      'max_new_tokens': prompt.max_new_tokens,
      'suppress_tokens': sorted(never),
    },
  }


def _arrays(path, lm, prompt, ids, size, unchosen):
  """Yields (name, array) of every weight, of the type that the source has.

  Args:
    path, lm, prompt, unchosen: see `write`.
    ids: of the virtual tokens.
    size: V of the new table, which holds them.
  """
  spec, names = lm.spec, lm.spec.names
  table, head = f'{names.root}.{names.embedding}.weight', f'{names.head}.weight'
  readers = weights.readers(path, model_lib.shapes(lm), names.head)
  embeddings = prompt.arrays['embeddings'] / (spec.embedding_scale or 1.0)

  def resized(name):
    array = readers[name]()  # [V, H]
    more = np.zeros((size - len(array), spec.width), array.dtype)
    return np.concatenate([array, more])

  rows = resized(table)
  with np.errstate(over='ignore'):  # what overflows is refused
    rows[ids] = embeddings
  if not np.isfinite(rows[ids]).all():
    raise errors.UserError(
      f'the prompt has numbers that are not finite in {rows.dtype}, the type of '
      f'model.path {path!r}; use a checkpoint of float32 or bfloat16'
    )
  yield table, rows
  del rows
  rows = resized(table if spec.tied else head)
  rows[spec.vocab_size :] = unchosen
  yield head, rows
  del rows
  for name, read in readers.items():
    if name not in (table, head):
      yield name, read()


def _write_weights(directory, arrays):
  """Writes (name, array) pairs in files of about `_SHARD` bytes, and their index."""
  shards, total = [], 0
  for shard in _grouped(arrays):
    shards.append((directory / f'{len(shards)}.partial', list(shard)))
    total += sum(array.nbytes for array in shard.values())
    content = safetensors.numpy.save(shard, metadata={'format': 'pt'})
    shards[-1][0].write_bytes(content)
  if len(shards) == 1:
    shards[0][0].rename(directory / 'model.safetensors')
    return
  places = {}
  for i, (file, names) in enumerate(shards, 1):
    name = f'model-{i:05}-of-{len(shards):05}.safetensors'
    file.rename(directory / name)
    places |= dict.fromkeys(names, name)
  index = {'metadata': {'total_size': total}, 'weight_map': places}
  (directory / 'model.safetensors.index.json').write_text(json.dumps(index, indent=2))


def _grouped(arrays):
  """Yields dicts of (name, array) pairs, each of `_SHARD` bytes or a little more."""
  shard = {}
  for name, array in arrays:
    shard[name] = np.ascontiguousarray(array)
    if sum(each.nbytes for each in shard.values()) >= _SHARD:
      yield shard
      shard = {}
  if shard:
    yield shard


def _card(path, template, prompt, tokens, adds_newline):
  where = {'prefix': 'before', 'suffix': 'after'}[prompt.position]
  source = '' if adds_newline else '\\n'
  parts = [''.join(tokens), 'SOURCE' + '\\n']
  return _CARD.format(
    base=exported.shown(path),
    name=prompt.task.prompt_name,
    tag=exported.TAG,
    length=len(tokens),
    task=prompt.task.name,
    where=where,
    source='SOURCE' if adds_newline else f"SOURCE + '{source}'",
    newline=_ADDED if adds_newline else _NOT_ADDED,
    literal='    ' + ''.join(parts if where == 'before' else parts[::-1]),
    template=f'    {prompt.task.template}{template.tokenizer.eos_token}',
  )
