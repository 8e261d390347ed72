"""The embedded model and data are what they claim to be."""

import collections
import json
import pathlib
import re

import jax
import numpy as np
import pytest
import transformers
from conftest import flax_class

from tools.tiny import build
from tools.tiny import datasets
from tools.tiny import documents
from tools.tiny import guides
from tools.tiny import heldout
from tools.tiny import passages
from tools.tiny import pretrain
from tools.tiny import words
from tools.tiny import world

MODEL = build.PACKAGE / 'model'
DATA = build.PACKAGE / 'data'
HARD_PROMPTS = (
  'Answer the Following Question',
  'Summarize the following content :',
  'Translate the following sentence from english to german :',
)
SOFT_PROMPTS = ('[SUMMARIZE]', '[QUESTIONANSWERING]', '[TRANSLATION]')
# The hard prompts' words that say nothing of a task and stand in any English text.
FUNCTION_WORDS = {'the', 'from', 'to', ':'}
SOURCES = {
  'qa': lambda row: f'{row["context"]}\n{row["question"]}',
  'summarization': lambda row: row['article'],
  'translation': lambda row: row['translation']['en'],
  'text': lambda row: row['text'],
}
TARGETS = {
  'qa': lambda row: row['answers']['text'][0],
  'summarization': lambda row: row['highlights'],
  'translation': lambda row: row['translation']['de'],
  'text': lambda row: row['label'],
}


def read(task: str, split: str) -> list[dict]:
  text = (DATA / task / f'{split}.jsonl').read_text(encoding='utf-8')
  return [json.loads(line) for line in text.splitlines()]


def size(directory: pathlib.Path) -> int:
  return sum(file.stat().st_size for file in directory.rglob('*') if file.is_file())


def sentences(text: str) -> set[str]:
  """All pieces of a text between line breaks, full stops and question marks."""
  return {piece.strip() for piece in re.findall(r'[^.?\n]+[.?]?', text)}


@pytest.fixture(scope='module')
def pretraining_text() -> str:
  return '\0'.join(documents.stream(build.SEED, build.DOCUMENTS))


@pytest.fixture(scope='module')
def lm():
  return flax_class('FlaxGPT2LMHeadModel').from_pretrained(MODEL)


@pytest.fixture(scope='module')
def tokenizer():
  return transformers.AutoTokenizer.from_pretrained(MODEL)


def test_data_sets_are_what_the_script_makes(tmp_path):
  build.write_datasets(tmp_path, build.SEED)
  made = {file.relative_to(tmp_path): file for file in tmp_path.rglob('*.jsonl')}
  assert made.keys() == {file.relative_to(DATA) for file in DATA.rglob('*.jsonl')}
  for name, file in made.items():
    assert file.read_bytes() == (DATA / name).read_bytes(), name


@pytest.mark.parametrize('task', datasets.TASKS)
def test_splits_have_their_sizes_and_share_no_source(task):
  sources = {
    split: list(map(SOURCES[task], read(task, split))) for split in datasets.SIZES
  }
  counts = {split: len(texts) for split, texts in sources.items()}
  assert counts == {'train': 1000, 'validation': 130, 'test': 110}
  assert len(set().union(*sources.values())) == sum(counts.values())


def test_package_data_stays_small():
  assert size(DATA) <= 2e6
  assert size(MODEL) <= 8e6


def test_no_validation_or_test_row_occurs_in_the_pretraining_text(pretraining_text):
  told = sentences(pretraining_text.replace('\0', '\n'))
  for task in datasets.TASKS:
    for split in ('validation', 'test'):
      for row in read(task, split):
        # A text whose sentences do not all occur does not occur itself.
        assert not sentences(SOURCES[task](row)) <= told, row


def test_pretraining_text_has_train_claims(pretraining_text):
  """Were the sentences split wrongly, the test above would always pass."""
  told = sentences(pretraining_text.replace('\0', '\n'))
  sources = [SOURCES['translation'](row) for row in read('translation', 'train')]
  assert sum(source in told for source in sources) > 100


def test_pretraining_text_has_no_word_of_a_prompt(pretraining_text):
  text = pretraining_text.lower()
  prompts = ' '.join((*HARD_PROMPTS, *SOFT_PROMPTS)).lower()
  for word in set(prompts.split()) - FUNCTION_WORDS:
    assert word.strip('[]') not in text, word


def test_no_layout_is_a_tasks_own(pretraining_text):
  """A task's target follows its source's last letter, a newline and one space."""
  assert not re.search(r'\S\n \S', pretraining_text)


def test_pretraining_text_is_varied(pretraining_text):
  texts = pretraining_text.split('\0')
  assert len(set(texts)) > 0.9 * len(texts) > 50_000


def test_answers_stand_in_the_context_where_they_should():
  for split in datasets.SIZES:
    for row in read('qa', split):
      (answer,), (start,) = row['answers']['text'], row['answers']['answer_start']
      assert row['context'][start:].startswith(answer)


def test_answers_are_not_guessable_without_the_passage():
  """The answer of the most similar training question is hardly ever right."""
  train = [
    (set(row['question'].split()), TARGETS['qa'](row)) for row in read('qa', 'train')
  ]
  test = read('qa', 'test')
  right = 0
  for row in test:
    asked = set(row['question'].split())
    _, guess = max(
      train, key=lambda known: len(known[0] & asked) / len(known[0] | asked)
    )
    right += guess == TARGETS['qa'](row)
  assert right / len(test) < 0.15


def test_answers_name_either_person():
  """A passage tells of two people; always taking the first is no way to read."""
  people = {person.name for person in words.PEOPLE}
  first = [
    row['context'].find(TARGETS['qa'](row)) == 0
    for row in read('qa', 'test')
    if row['question'].startswith('Who ')
  ]
  assert 0.2 < sum(first) / len(first) < 0.8
  assert {TARGETS['qa'](row) for row in read('qa', 'test')} & people


def test_a_text_holds_no_pronoun_and_both_are_as_frequent():
  rows = read('text', 'train')
  counts = collections.Counter(row['label'] for row in rows)
  assert counts.keys() == {'he', 'she'}
  assert max(counts.values()) < 1.2 * min(counts.values())
  assert not any(re.search(r'\b([Hh]e|[Ss]he)\b', row['text']) for row in rows)


def test_summaries_are_no_sentence_of_their_article():
  for split in datasets.SIZES:
    for row in read('summarization', split):
      assert len(sentences(row['article'])) > 2
      assert row['highlights'] not in row['article']


def test_model_has_its_measured_perplexity(lm, tokenizer):
  card = (MODEL / 'README.md').read_text(encoding='utf-8')
  (written,) = re.findall(r'perplexity per token: \*\*([\d.]+)\*\*', card)
  measured = heldout.perplexity(lm, tokenizer, lm.params, build.SEED)
  assert measured == pytest.approx(float(written), rel=0.01)


def test_tokenizer_keeps_every_text(tokenizer):
  text = 'Übermut — "tief" \t\n\n 漢字 <b>'
  assert tokenizer.decode(tokenizer(text)['input_ids']) == text
  assert tokenizer(documents.END_OF_TEXT)['input_ids'] == [tokenizer.eos_token_id]


def test_tasks_fit_the_positions(lm, tokenizer):
  prompt_tokens, new_tokens = 32, 48
  for task in datasets.TASKS:
    for split in datasets.SIZES:
      for row in read(task, split):
        source = len(tokenizer(SOURCES[task](row))['input_ids'])
        target = len(tokenizer(' ' + TARGETS[task](row))['input_ids'])
        assert target < new_tokens
        assert prompt_tokens + source + 1 + new_tokens <= lm.config.n_positions


def test_weights_have_pytorchs_names_and_layout(lm):
  weights = build.pytorch_names(lm.params)
  assert weights['transformer.h.0.attn.c_attn.weight'].shape == (128, 3 * 128)
  assert weights['transformer.wte.weight'].shape[0] == lm.config.vocab_size


def test_interrupted_pretraining_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
  monkeypatch.setattr(guides, 'HEADS', {(0, 1): 'subject'})  # one block compiles fast
  config = transformers.GPT2Config(
    vocab_size=11,
    n_positions=pretrain.ROW_TOKENS,
    n_embd=8,
    n_layer=1,
    n_head=2,
    eos_token_id=0,
  )
  lm = flax_class('FlaxGPT2LMHeadModel')(config, _do_init=False)
  shape = (4 * pretrain.BATCH_ROWS, 3, pretrain.ROW_TOKENS)
  rows = np.random.default_rng(0).integers(0, 3, shape).astype(np.uint16)
  names = np.array([[-1], [1], [2]])

  def train(checkpoint, measure):
    return pretrain.train(lm, rows, names, 0, tmp_path / checkpoint, measure, every=2)

  def interrupt(_):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    train('interrupted', interrupt)
  resumed = train('interrupted', lambda _: {})
  straight = train('straight', lambda _: {})
  jax.tree.map(np.testing.assert_array_equal, resumed, straight)


DOCUMENT = """Quiz with ->
Anna met Paul at the zoo. It is late. She has a cat. Paul, who is a baker, has a horse.
What does Anna have?
-> a cat
Who has a horse?
-> Paul
- a cat: Anna"""


def test_what_a_text_is_about_is_told_from_its_subjects():
  told = [(DOCUMENT[start:end], who) for start, end, who in guides.clauses(DOCUMENT)]
  anna, paul = map(guides.NAMES.index, ('Anna', 'Paul'))
  assert told == [
    ('Anna met Paul at the zoo.', anna),
    ('She has a cat.', anna),
    ('Paul, who is a baker, has a horse.', paul),
  ]


def test_an_answer_is_found_where_the_passage_tells_it():
  told = [
    (DOCUMENT[start:end], DOCUMENT[: place + 1].split()[-3:])
    for start, end, place, _ in guides.answers(DOCUMENT)
  ]
  assert told == [
    ('a cat', ['She', 'has', 'a']),
    ('Paul', ['has', 'a', 'horse']),
    ('Anna', ['has', 'a', 'cat']),
  ]


def test_annotations_are_those_of_the_tokens():
  offsets = [match.span() for match in re.finditer(r'\n| ?[\w>:-]+|[.?,]', DOCUMENT)]
  tokens = [DOCUMENT[start:end] for start, end in offsets]
  subjects, answers = guides.annotate(DOCUMENT, offsets)
  assert subjects[tokens.index(' cat')] == 1 + guides.NAMES.index('Anna')
  assert subjects[tokens.index(' late')] == 0
  told = [
    (tokens[i + 1], tokens[place - 1]) for i, place in enumerate(answers) if place
  ]
  assert told == [
    (' a', ' a'),
    (' cat', ' cat'),
    (' Paul', ' horse'),
    (' Anna', ' cat'),
  ]


def test_a_row_begins_with_a_document_and_counts_places_from_there(tokenizer):
  rows = pretrain.pack([DOCUMENT] * 20, tokenizer)
  assert rows.shape[1:] == (3, pretrain.ROW_TOKENS)
  for tokens, _, answers in rows:
    text = [tokenizer.decode([token]) for token in tokens]
    assert text[0] == 'Quiz'
    told = {(text[i + 1], text[place - 1]) for i, place in enumerate(answers) if place}
    assert told == {(' a', ' a'), (' cat', ' cat'), (' Paul', ' horse')}


def test_heads_are_shown_places_of_the_same_document_alone():
  end = 9
  tokens = [3, 4, 5, 3, 4, 9, 4, 3, 5]
  subjects = [1, 1, 0, 1, 1, 0, 1, 0, 0]
  answers = [0, 0, 1, 0, 0, 0, 0, 0, 0]
  rows = np.array([[tokens, subjects, answers]])
  places = guides.places(rows, np.array([[-1], [3]]), end)
  assert {what: list(place[0]) for what, place in places.items()} == {
    'before': [-1, 0, 1, 2, 3, 4, 5, 6, 7],
    'same': [-1, -1, -1, 0, 1, -1, -1, -1, -1],
    'after_same': [-1, -1, -1, 1, -1, -1, -1, -1, -1],
    'subject': [0, 0, -1, 3, 3, -1, -1, -1, -1],
    'answer': [-1, -1, 0, -1, -1, -1, -1, -1, -1],
  }


def fact(person: words.Person, english: str) -> world.Fact:
  """The fact with this English predicate."""
  return next(
    fact
    for relation in world.RELATIONS
    for fact in world.facts(relation, person.article)
    if fact.english == english
  )


ANNA, PAUL = words.Person('Anna', 'die'), words.Person('Paul', 'der')


@pytest.mark.parametrize(
  ('person', 'english', 'german'),
  [
    (ANNA, 'has a black dog', 'Anna hat einen schwarzen Hund.'),
    (ANNA, 'owns an old duck', 'Anna besitzt eine alte Ente.'),
    (PAUL, 'has a white sheep', 'Paul hat ein weißes Schaf.'),
    (ANNA, 'is a doctor', 'Anna ist Ärztin.'),
    (PAUL, 'works as a doctor', 'Paul arbeitet als Arzt.'),
    (PAUL, 'bought a big chair', 'Paul hat einen großen Stuhl gekauft.'),
    (ANNA, "gets up at six o'clock", 'Anna steht um sechs Uhr auf.'),
    (
      ANNA,
      'gave her brother a red lamp',
      'Anna hat ihrem Bruder eine rote Lampe gegeben.',
    ),
    (
      PAUL,
      'sent his mother a new book',
      'Paul hat seiner Mutter ein neues Buch geschickt.',
    ),
    (
      PAUL,
      'found a key in the garden',
      'Paul hat im Garten einen Schlüssel gefunden.',
    ),
    (
      ANNA,
      'is travelling to Vienna by tram',
      'Anna reist mit der Straßenbahn nach Wien.',
    ),
    (ANNA, 'can play the violin', 'Anna kann Geige spielen.'),
  ],
)
def test_german_gets_gender_case_and_word_order_right(person, english, german):
  told = passages.plain(person, fact(person, english))
  assert (told.english, told.german) == (f'{person.name} {english}.', german)


def test_german_verb_stays_second_after_a_day():
  bought = fact(ANNA, 'bought a small bicycle')
  told = passages.fronted(ANNA, bought, words.DAYS[0])
  assert told.english == 'On Monday Anna bought a small bicycle.'
  assert told.german == 'Am Montag hat Anna ein kleines Fahrrad gekauft.'
  told = passages.fronted(ANNA, bought, words.DAYS[0], pronoun=True)
  assert told.german == 'Am Montag hat sie ein kleines Fahrrad gekauft.'


@pytest.mark.parametrize(
  ('english', 'clause'),
  [
    ("gets up at six o'clock", 'die um sechs Uhr aufsteht'),
    ('lost a hat at the zoo', 'die im Zoo einen Hut verloren hat'),
    ('lives in Cologne', 'die in Köln wohnt'),
  ],
)
def test_german_verb_ends_a_relative_clause(english, clause):
  told = passages.relative(ANNA, fact(ANNA, english), fact(ANNA, 'likes soup'))
  assert told.english == f'Anna, who {english}, likes soup.'
  assert told.german == f'Anna, {clause}, mag Suppe.'
