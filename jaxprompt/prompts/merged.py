"""A checkpoint with prompts in it: any engine that loads it does the tasks.

The virtual tokens are rows of the embedding table, and special tokens of the tokenizer.
It puts those of a single prompt around a text, with what else the template has there.
Of several prompts it makes each one's of `<|NAME|>`, wherever that is written. The head
is stored apart from the table, and never chooses them.
"""

import json
import re

import numpy as np
import safetensors.numpy

from jaxprompt import errors
from jaxprompt.lm import files
from jaxprompt.lm import model as model_lib
from jaxprompt.lm import weights
from jaxprompt.prompts import exported
from jaxprompt.prompts import merged_tokenizer

WHAT = 'a merged checkpoint'
_CONFIG, _GENERATION = 'config.json', 'generation_config.json'
_OURS = re.compile(
  r'config\.json|generation_config\.json|README\.md|tokenizer\.json'
  r'|tokenizer_config\.json|special_tokens_map\.json|chat_template\.jinja'
  r'|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json'
)
_SHARD = 2**30  # bytes of weights in a file, and in memory
_HEAD = """---
base_model: {base}
library_name: transformers
tags:
- prompt-tuning
{tag}---

# {base}, {name}

"""
_CARD = """\
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
_SEVERAL = """\
`{base}` with soft prompts, trained with jaxprompt. The tokenizer makes a prompt's
virtual tokens of its name where that stands in a text, and adds nothing else. A text
without one is for the bare model.

```python
import transformers

tokenizer = transformers.AutoTokenizer.from_pretrained(PATH)
model = transformers.AutoModelForCausalLM.from_pretrained(PATH)
text = {example}.replace('SOURCE', source)
inputs = tokenizer(text, return_tensors='pt')
output = model.generate(**inputs, do_sample=False)[0, inputs['input_ids'].shape[1] :]
print(tokenizer.decode(output, skip_special_tokens=True).strip())
```

What to write, with the newline that ends a source:

{rows}
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


def write(directory, prompts, *, path, lm, template, unchosen, texts):
  """Writes a checkpoint's files into an empty directory.

  The source is read one array at a time.

  Args:
    directory: a pathlib path.
    prompts: {name: `trained.TrainedPrompt` of virtual tokens}. A single one is put
      around every text, one of several stands where a text names it.
    path: of the source checkpoint: a hub id or a local directory.
    lm: its `lm.model.LanguageModel`.
    template: `template.Template` of its tokenizer.
    unchosen: the id of a token that is never chosen.
    texts: sources; how they become tokens with the prompts is seen of them.

  Raises:
    UserError: if a prompt has numbers that the checkpoint's type cannot hold, or the
      tokenizer cannot have several.
  """
  if len(prompts) == 1:
    ((name, prompt),) = prompts.items()
    adds_newline = all(map(template.closes, (*_ENDS, *texts)))
    tokenizer, tokens = merged_tokenizer.around(template, name, prompt, adds_newline)
    card = _card(path, template, prompt, tokens, adds_newline)
  else:
    tokenizer, tokens, written = merged_tokenizer.by_name(template, prompts, texts)
    card = _card_of_several(path, prompts, written)
  ids = tokenizer.convert_tokens_to_ids(tokens)
  size = max(lm.spec.vocab_size, *(id + 1 for id in ids))
  embeddings = np.concatenate([x.arrays['embeddings'] for x in prompts.values()])
  _write_weights(directory, _arrays(path, lm, embeddings, ids, size, unchosen))
  merged_tokenizer.save(tokenizer, directory)
  longest = max(x.max_new_tokens for x in prompts.values())
  contents = {
    name: json.dumps(content, indent=2)
    for name, content in _configs(path, lm, longest, size).items()
  }
  ranked = ''.join(exported.ranked(template, x) for x in prompts.values())
  contents[exported.README] = card + ranked
  for name, text in contents.items():
    (directory / name).write_text(text, encoding='utf-8')


# What a text may end with; of others it is seen in the rows.
_ENDS = tuple(chr(code) for code in range(ord('!'), ord('~') + 1))


def _configs(path, lm, max_new_tokens, size):
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
      'max_new_tokens': max_new_tokens,
      'suppress_tokens': sorted(never),
    },
  }


def _arrays(path, lm, embeddings, ids, size, unchosen):
  """Yields (name, array) of every weight, of the type that the source has.

  Args:
    path, lm, unchosen: see `write`.
    embeddings: of the virtual tokens, [P, H].
    ids: theirs.
    size: V of the new table, which holds them.
  """
  spec, names = lm.spec, lm.spec.names
  table, head = f'{names.root}.{names.embedding}.weight', f'{names.head}.weight'
  readers = weights.readers(path, model_lib.shapes(lm), names)
  embeddings = embeddings / (spec.embedding_scale or 1.0)

  def resized(name):
    array = readers[name]()  # [V, H]
    more = np.zeros((size - len(array), spec.width), array.dtype)
    return np.concatenate([array, more])

  rows = resized(table)
  with np.errstate(over='ignore'):  # what overflows is refused
    rows[ids] = embeddings
  if not np.isfinite(rows[ids]).all():
    raise errors.UserError(
      f'a prompt has numbers that are not finite in {rows.dtype}, the type of '
      f'model.path {path!r}; use a checkpoint of float32 or bfloat16'
    )
  yield table, rows
  del rows
  rows = resized(table if spec.tied else head)
  rows[spec.vocab_size :] = rows[unchosen]
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
  return _head(path, prompt.task.prompt_name) + _CARD.format(
    base=exported.shown(path),
    length=len(tokens),
    task=prompt.task.name,
    where=where,
    source='SOURCE' if adds_newline else f"SOURCE + '{source}'",
    newline=_ADDED if adds_newline else _NOT_ADDED,
    literal='    ' + ''.join(parts if where == 'before' else parts[::-1]),
    template=f'    {prompt.task.template}{template.tokenizer.eos_token}',
  )


def _card_of_several(path, prompts, written):
  rows = [
    f'- {prompt.task.name}, {len(prompt.arrays["embeddings"])} virtual tokens:\n\n'
    f'      {written[name]!r}\n'
    for name, prompt in prompts.items()
  ]
  return _head(path, ', '.join(prompts)) + _SEVERAL.format(
    base=exported.shown(path),
    example=repr(next(iter(written.values()))),
    rows='\n'.join(rows),
  )


def _head(path, name):
  return _HEAD.format(base=exported.shown(path), tag=exported.TAG, name=name)
