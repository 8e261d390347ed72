"""Makes tests/fixtures/NAME: a tiny random model, and what PyTorch computes with it.

The tests compare with the stored values, so that they need no torch. To make them
anew, in an environment with torch, transformers, tokenizers and numpy:

  python tools/make_torch_fixture.py gpt2 tests/fixtures/gpt2
"""

import functools
import json
import pathlib
import sys

import numpy as np
import tokenizers
import torch
import transformers

TEXT = """The steam engine was improved by James Watt in the year 1776 in Scotland.
Who improved the steam engine? Where is the red house of the old woman? It is in town.
We present a method that learns a small model of the world from few examples.
Ein Mann und eine Frau gehen durch die Stadt. Zwei Kinder spielen im Garten am Haus.
A man and a woman walk through the city. Two children are playing in the garden."""
VOCAB, POSITIONS, WIDTH, BLOCKS, HEADS = 320, 192, 24, 2, 3


def write_tokenizer(folder):
  bpe = tokenizers.ByteLevelBPETokenizer()
  bpe.train_from_iterator(
    TEXT.splitlines(), vocab_size=VOCAB, special_tokens=['<|endoftext|>']
  )
  bpe.save(str(folder / 'tokenizer.json'))
  # Written out: transformers 5 would name a class that transformers 4 does not have.
  config = {
    'tokenizer_class': 'GPT2TokenizerFast',
    'eos_token': '<|endoftext|>',
    'bos_token': '<|endoftext|>',
    'unk_token': '<|endoftext|>',
    'model_max_length': POSITIONS,
  }
  (folder / 'tokenizer_config.json').write_text(json.dumps(config, indent=2) + '\n')
  return bpe.token_to_id('<|endoftext|>')


def make_gpt2(eos_id):
  config = transformers.GPT2Config(
    vocab_size=VOCAB,
    n_positions=POSITIONS,
    n_embd=WIDTH,
    n_layer=BLOCKS,
    n_head=HEADS,
    bos_token_id=eos_id,
    eos_token_id=eos_id,
  )
  return transformers.GPT2LMHeadModel(config)


def make_llama(eos_id, *, heads, key_value_heads, tied):
  config = transformers.LlamaConfig(
    vocab_size=VOCAB,
    max_position_embeddings=POSITIONS,
    hidden_size=WIDTH,
    intermediate_size=40,
    num_hidden_layers=BLOCKS,
    num_attention_heads=heads,
    num_key_value_heads=key_value_heads,
    rope_parameters={'rope_type': 'default', 'rope_theta': 500.0},
    tie_word_embeddings=tied,
    bos_token_id=eos_id,
    eos_token_id=eos_id,
  )
  return transformers.LlamaForCausalLM(config)


MODELS = {
  'gpt2': make_gpt2,
  'llama': functools.partial(make_llama, heads=6, key_value_heads=2, tied=True),
  'llama_untied': functools.partial(make_llama, heads=3, key_value_heads=3, tied=False),
}


def write_model(name, folder, eos_id):
  torch.manual_seed(0)
  model = MODELS[name](eos_id).eval()
  with torch.no_grad():
    for parameter, weight in model.named_parameters():
      # Far from the small start, where every logit is about the same, and with
      # biases and norms that a swapped or forgotten weight would show in.
      is_norm = parameter.endswith('weight') and (
        'ln_' in parameter or 'norm' in parameter
      )
      weight.copy_(float(is_norm) + 0.25 * torch.randn(weight.shape))
  model.save_pretrained(folder, safe_serialization=True)
  (folder / 'generation_config.json').unlink()
  return model


def compute(model):
  """Returns inputs, and the loss, logits and prompt gradient that PyTorch finds."""
  rows, prompt_length, length, source = 3, 4, 11, 6
  generator = torch.Generator().manual_seed(1)
  ids = torch.randint(0, VOCAB - 1, (rows, length), generator=generator)
  prompt = torch.randn(prompt_length, WIDTH, generator=generator)
  prompt.requires_grad_(True)
  embeds = torch.cat(
    [prompt.expand(rows, -1, -1), model.get_input_embeddings()(ids)], dim=1
  )  # [B, P + T, H]
  logits = model(inputs_embeds=embeds).logits  # [B, P + T, V]
  at_target = logits[:, prompt_length + source - 1 : -1]
  loss = torch.nn.functional.cross_entropy(
    at_target.reshape(-1, VOCAB), ids[:, source:].reshape(-1)
  )
  loss.backward()
  return {
    'input_ids': ids.numpy().astype(np.int32),
    'source_length': np.int32(source),
    'soft_prompt': prompt.detach().numpy(),
    'target_logits': at_target.detach().numpy(),
    'loss': loss.detach().numpy(),
    'prompt_gradient': prompt.grad.numpy(),
    'bare_logits': model(input_ids=ids).logits.detach().numpy(),
  }


def main(name, folder):
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  eos_id = write_tokenizer(folder)
  model = write_model(name, folder, eos_id)
  np.savez_compressed(folder / 'torch_outputs.npz', **compute(model))


if __name__ == '__main__':
  if len(sys.argv) != 3 or sys.argv[1] not in MODELS:
    sys.exit(__doc__)
  main(*sys.argv[1:])
