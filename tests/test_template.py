"""The template's tokens are those of the text as a user of the model would give it."""

import re

import pytest
import tokenizers
import transformers

from jaxprompt import errors
from jaxprompt.data import rows as rows_lib
from jaxprompt.prompts import arms
from jaxprompt.tasks import tasks
from jaxprompt.tasks import template as template_lib

SHIPPED = sorted(
  {text for x in tasks.TASKS.values() for text in x.hard_prompts if '{source}' in text}
)
TEXTS = ['The Rhine is a river in Europe.', 'Der Rhein ist ein Fluss.', 'a b: c']
# Of Llama 3: a newline is one token with the punctuation before it.
_PIECES = (
  r'[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*'
  r'|\s*[\r\n]+|\s+(?!\S)|\s+'
)
_SPECIAL = ['<s>', '</s>']


def _sentencepiece():
  """As Llama 2's: a piece for a space in front of every text, bytes for a newline."""
  made = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, fuse_unk=True))
  made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()  # no piece of two words
  alphabet = [f'<0x{byte:02X}>' for byte in range(256)]
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=340, special_tokens=[*_SPECIAL, '<unk>', *alphabet]
  )
  made.train_from_iterator(TEXTS * 3, trainer)
  made.normalizer = tokenizers.normalizers.Sequence(
    [
      tokenizers.normalizers.Prepend('▁'),
      tokenizers.normalizers.Replace(' ', '▁'),
    ]
  )
  made.pre_tokenizer = None
  return made


def _tiktoken():
  made = tokenizers.Tokenizer(tokenizers.models.BPE())
  made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
    [
      tokenizers.pre_tokenizers.Split(tokenizers.Regex(_PIECES), 'isolated'),
      tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=330,
    special_tokens=_SPECIAL,
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
  )
  # One token of punctuation and the newlines after it, as Llama 3's and Qwen's have.
  joined = [f'{word}\n\n' for word in ('content :', 'it:', 'words.', 'Text:')]
  made.train_from_iterator([f'{text}\n' for text in TEXTS * 3] + joined * 9, trainer)
  return made


def _wrapped(made, begins):
  if begins:
    made.post_processor = tokenizers.processors.TemplateProcessing(
      single='<s> $A', special_tokens=[('<s>', made.token_to_id('<s>'))]
    )
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=made, bos_token='<s>', eos_token='</s>'
  )


TOKENIZERS = {
  'sentencepiece': lambda: _wrapped(_sentencepiece(), begins=True),
  'sentencepiece without BOS': lambda: _wrapped(_sentencepiece(), begins=False),
  'tiktoken': lambda: _wrapped(_tiktoken(), begins=True),
}


@pytest.fixture(scope='module', params=TOKENIZERS)
def template(request):
  return template_lib.Template(TOKENIZERS[request.param]())


@pytest.fixture
def source(template):
  return template.source('', TEXTS[0], '', 99)[1]


def test_a_source_is_what_the_tokenizer_makes_of_it_and_a_newline(template, source):
  assert source == template.tokenizer(f'{TEXTS[0]}\n')['input_ids']
  assert template.sources([('', TEXTS[0], '')], 99) == [(TEXTS[0], source)]


def test_source_and_target_are_the_tokens_of_the_whole_text(template, source):
  target = template.target(TEXTS[1], 99)[1]
  whole = template.tokenizer(f'{TEXTS[0]}\n {TEXTS[1]}')['input_ids']
  assert [*source, *target] == [*whole, template.end_id]
  assert template.targets([TEXTS[1]], 99) == [(TEXTS[1], target)]


def test_a_cut_counts_the_sources_own_tokens(template):
  bare, _ = template_lib.encode(template.tokenizer, TEXTS[0])
  for limit in range(2, len(bare) + 2):
    text, ids = template.source('', TEXTS[0], '', limit)
    assert TEXTS[0].startswith(text)
    assert ids == template.tokenizer(f'{text}\n')['input_ids']
    assert len(ids) <= limit + template.frame_tokens


@pytest.mark.parametrize(
  'written, literal',
  [
    ('Say it:', 'Say it: {source}\n'),
    ('{source}\nTL;DR:', '{source}\nTL;DR:'),
    ('English: {source}\nGerman:', 'English: {source}\nGerman:'),
    *((text, text) for text in SHIPPED),
  ],
)
def test_a_text_arm_is_the_whole_literal_text(template, source, written, literal):
  rows = rows_lib.table([source], [[1]])
  columns = rows._columns.set_column(1, 'source', [[TEXTS[0]]])
  (row,) = rows_lib.Table(columns)
  wording = arms.written(template, written)
  (own,), _ = arms.reworded(wording, template, [row])
  found = [*arms.ids_in_front(wording, template), *own]
  text = literal.replace('{source}', TEXTS[0])
  expected = template.tokenizer(text)['input_ids']
  alone, _ = template_lib.encode(template.tokenizer, written)
  if written == 'Say it:' and template.in_front(written) != alone:
    # A source is the same tokens in all arms, so that the space is a token of its own.
    found, expected = map(template.tokenizer.decode, (found, expected))
  assert found == expected


@pytest.mark.parametrize('text', ['Answer with a word.', 'Read the content :'])
def test_a_chat_arm_is_the_whole_literal_text(template, text):
  tokenizer = template.tokenizer
  tokenizer.chat_template = "[INST] {{ messages[0]['content'] }} [/INST]"
  wording = arms.chat(template, text)
  _, ids = template.source('', TEXTS[0], '', 99)
  source = arms.source_ids(wording, template, TEXTS[0], ids)
  found = [*arms.ids_in_front(wording, template), *source]
  assert found == tokenizer(f'[INST] {text}\n\n{TEXTS[0]} [/INST]')['input_ids']


def test_a_chat_template_that_fails_is_one_line(template):
  template.tokenizer.chat_template = {'tool': 'x'}  # none that is the default
  with pytest.raises(
    errors.UserError, match=r'chat template fails: .*; leave chat out'
  ):
    arms.chat(template, 'Say it:')


def test_what_is_never_cut_is_said_with_its_own_length(template):
  question = TEXTS[0] * 3
  with pytest.raises(errors.RowError, match=r'alone is .* never cut') as found:
    template.source('', TEXTS[1] * 9, question, 3)
  length = int(re.search(r'alone is (\d+) tokens', str(found.value)).group(1))
  _, ids = template.source('', TEXTS[1] * 9, question, length)
  assert len(ids) <= length + template.frame_tokens
  with pytest.raises(errors.RowError):
    template.source('', TEXTS[1] * 9, question, length - 1)


def test_shown_examples_begin_once(template):
  sources = [template.source('', text, '', 99)[1] for text in TEXTS]
  rows = rows_lib.table(sources, [template.target(x, 99)[1] for x in TEXTS])
  given = arms.Given(template, rows, 'x', (), shots=3, draws=1, room=999)
  (wording,) = arms.ARMS['few_shot'].wordings(given)
  ids = arms.ids_in_front(wording, template)
  assert ids.count(template.tokenizer.bos_token_id) == len(template.start_ids)
  assert ids[: len(template.start_ids)] == template.start_ids


@pytest.mark.parametrize('tail', [' [/INST]', '\nASSISTANT:', '</s>\nASSISTANT:'])
def test_a_chat_is_the_tokens_of_its_whole_text(template, monkeypatch, tail):
  written = "[INST] {{ messages[0]['content'] }}" + tail
  monkeypatch.setattr(template.tokenizer, 'chat_template', written)
  wording = arms.chat(template, 'Say it:')
  ids = arms.source_ids(wording, template, TEXTS[0], [])
  literal = f'[INST] Say it:\n\n{TEXTS[0]}{tail}'
  expected = template.tokenizer(literal)['input_ids']
  assert [*arms.ids_in_front(wording, template), *ids] == expected


@pytest.mark.parametrize('text', ['', 'Say: {source}'])
def test_a_chats_instruction_has_words_and_no_place(template, monkeypatch, text):
  monkeypatch.setattr(template.tokenizer, 'chat_template', '{{ messages }}')
  with pytest.raises(errors.UserError, match=r'expected an instruction without .sour'):
    arms.chat(template, text)
