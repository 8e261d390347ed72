"""The tokenizer of a merged checkpoint: where the virtual tokens stand in a text."""

import itertools
import json
import re

import tokenizers
import transformers

from jaxprompt import errors

_NAME = re.compile(r'[\w.-]+')  # of one of several prompts


def around(template, name, prompt, adds_newline):
  """Makes a tokenizer that puts a prompt around every text.

  Args:
    template: `template.Template` of the model's tokenizer.
    name: of the prompt; another is taken if the tokenizer has such tokens.
    prompt: `trained.TrainedPrompt`.
    adds_newline: it adds the newline after a source too.

  Returns:
    A tokenizer of transformers, and the texts of the virtual tokens.
  """
  made = _copied(template)
  tokens = next(
    tokens
    for tokens in (_spelled(stem, prompt) for stem in _stems(name))
    if all(made.token_to_id(token) is None for token in tokens)
  )
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
  return _wrapped(made, template.tokenizer), tokens


def by_name(template, prompts, texts):
  """Makes a tokenizer to which `<|NAME|>` is the virtual tokens of a prompt.

  Its normalizer writes their texts out, and the tokens are matched after it
  (`normalized`). It adds nothing to a text.

  Args:
    template: see `around`.
    prompts: {name: `trained.TrainedPrompt`}.
    texts: sources that it is tried on.

  Returns:
    A tokenizer of transformers, the texts of all virtual tokens, and {name: what to
    write, where SOURCE stands for the source}.

  Raises:
    UserError: for a name that cannot be had, or a tokenizer to which a source beside a
      prompt is other tokens than alone.
  """
  made = _copied(template)
  written, expands, restores = {}, [], []
  start = ''.join(made.id_to_token(id) for id in template.start_ids)
  tokens = {name: _spelled(name, prompt) for name, prompt in prompts.items()}
  for name, prompt in prompts.items():
    own, (first, *_) = f'<|{name}|>', tokens[name]
    taken = any(made.token_to_id(x) is not None for x in (own, first))
    if taken or not _NAME.fullmatch(name):
      raise errors.UserError(
        f'{name!r:.60} cannot be the name of a prompt, or the model has one of it; '
        'expected letters, digits, _, . or -, such as qa'
      )
    expands.append(tokenizers.normalizers.Replace(own, ''.join(tokens[name])))
    if made.normalizer is not None:
      # SentencePiece puts a piece for a space before every text, also before a token's.
      lead, _, _ = made.normalizer.normalize_str(first).partition(first)
      if lead:
        undone = tokenizers.normalizers.Replace(f'{lead}<|{name}:', f'<|{name}:')
        restores.append(undone)
    parts = [own, f'{start}SOURCE\n']
    written[name] = ''.join(parts if prompt.position == 'prefix' else parts[::-1])
  whole = list(itertools.chain(*tokens.values()))
  theirs = [] if made.normalizer is None else [made.normalizer]
  made.normalizer = tokenizers.normalizers.Sequence([*expands, *theirs, *restores])
  made.add_special_tokens(
    [tokenizers.AddedToken(x, special=True, normalized=True) for x in whole]
  )
  made.post_processor = tokenizers.processors.TemplateProcessing(single='$A')
  found = _wrapped(made, template.tokenizer)
  _try_out(found, template, prompts, written, texts)
  return found, whole, written


def save(tokenizer, directory):
  """Writes a tokenizer's files as both lines of transformers read them."""
  tokenizer.save_pretrained(directory)
  file = directory / 'tokenizer_config.json'
  content = json.loads(file.read_text(encoding='utf-8'))
  # 5 knows the class by this name too, 4.57 by no other.
  content['tokenizer_class'] = 'PreTrainedTokenizerFast'
  file.write_text(json.dumps(content, indent=2), encoding='utf-8')


def _try_out(tokenizer, template, prompts, written, texts):
  """Refuses a tokenizer to which a source beside a prompt is other tokens."""
  for name, prompt in prompts.items():
    virtual = tokenizer.convert_tokens_to_ids(_spelled(name, prompt))
    for text in texts:
      _, source = template.source('', text, '', None)
      whole = virtual + source if prompt.position == 'prefix' else source + virtual
      given = written[name].replace('SOURCE', text)
      if tokenizer(given)['input_ids'] != whole:
        raise errors.UserError(
          f'to the tokenizer of the model a source is other tokens beside <|{name}|> '
          'than alone; export each prompt by itself'
        )


def _copied(template):
  made = tokenizers.Tokenizer.from_str(template.tokenizer.backend_tokenizer.to_str())
  made.no_truncation()
  made.no_padding()
  return made


def _spelled(name, prompt):
  """Returns the texts of a prompt's virtual tokens."""
  return [f'<|{name}:{i}|>' for i in range(len(prompt.arrays['embeddings']))]


def _stems(name):
  return itertools.chain([name], (f'{name}-{i}' for i in itertools.count(2)))


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
