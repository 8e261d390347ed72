"""Makes tests/fixtures/NAME: a tiny random model, and what PyTorch computes with it.

The tests compare with the stored values, so that they need no torch. To make them
anew, in an environment with torch, transformers 5, tokenizers and numpy:

  python tools/make_torch_fixture.py gpt2 tests/fixtures/gpt2

A model that is there already is kept, and computed with.
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
# The tokenizer has 310 tokens: the table is padded, as many are.
VOCAB, POSITIONS, WIDTH, BLOCKS, HEADS = 320, 192, 24, 2, 3
NEW_TOKENS = 32
# How far the two likeliest tokens have to be apart for rounding not to swap them.
CLEAR = 2e-4


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


def gpt2(**ends):
  return transformers.GPT2Config(
    vocab_size=VOCAB,
    n_positions=POSITIONS,
    n_embd=WIDTH,
    n_layer=BLOCKS,
    n_head=HEADS,
    **ends,
  )


def family(config, **own):
  """Returns the config of a family: sizes that differ, unless it says otherwise."""
  sizes = {
    'vocab_size': VOCAB,
    'max_position_embeddings': POSITIONS,
    'hidden_size': WIDTH,
    'intermediate_size': 40,
    'num_hidden_layers': BLOCKS,
    'num_attention_heads': 6,
    'num_key_value_heads': 2,
  }
  return functools.partial(config, **{**sizes, 'pad_token_id': None, **own})


def rope(theta, kind='default', **scaling):
  return {'rope_type': kind, 'rope_theta': theta, **scaling}


# Windows are shorter than the rows. Heads are wider than their share of the width, and
# some do not divide it.
ODD_HEADS = {'num_attention_heads': 10, 'num_key_value_heads': 5, 'head_dim': 6}
LLAMA_3 = {
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 24,
}
GEMMA = {'head_dim': 10, 'num_attention_heads': 4, 'intermediate_size': 28}
CAPS = {'attn_logit_softcapping': 3.0, 'final_logit_softcapping': 5.0}
CONFIGS = {
  'gpt2': gpt2,
  'llama': family(
    transformers.LlamaConfig, rope_parameters=rope(500.0), tie_word_embeddings=True
  ),
  'llama_untied': family(
    transformers.LlamaConfig,
    rope_parameters=rope(500.0),
    num_attention_heads=3,
    num_key_value_heads=3,
  ),
  'llama3': family(
    transformers.LlamaConfig,
    rope_parameters=rope(50.0, 'llama3', **LLAMA_3),
    head_dim=10,
    attention_bias=True,
    mlp_bias=True,
  ),
  'gpt_neox': family(
    transformers.GPTNeoXConfig,
    rope_parameters=rope(400.0, 'linear', factor=2.0, partial_rotary_factor=0.5),
    num_attention_heads=3,
    num_key_value_heads=None,
  ),
  'mistral': family(
    transformers.MistralConfig,
    rope_parameters=rope(300.0),
    sliding_window=7,
    **ODD_HEADS,
  ),
  'qwen2': family(
    transformers.Qwen2Config,
    rope_parameters=rope(700.0),
    use_sliding_window=True,
    sliding_window=6,
    max_window_layers=1,
  ),
  'qwen3': family(
    transformers.Qwen3Config,
    rope_parameters=rope(600.0),
    tie_word_embeddings=True,
    **ODD_HEADS,
  ),
  'gemma': family(transformers.GemmaConfig, **{**GEMMA, 'num_key_value_heads': 1}),
  'gemma2': family(
    transformers.Gemma2Config,
    sliding_window=5,
    query_pre_attn_scalar=7,
    **GEMMA,
    **CAPS,
  ),
  'gemma3_text': family(
    transformers.Gemma3TextConfig,
    sliding_window=5,
    layer_types=['sliding_attention', 'full_attention'],
    query_pre_attn_scalar=9,
    rope_parameters={
      'sliding_attention': rope(50.0),
      'full_attention': rope(900.0, 'linear', factor=4.0),
    },
    **GEMMA,
  ),
  'smollm3': family(
    transformers.SmolLM3Config,
    rope_parameters=rope(800.0),
    no_rope_layers=[1, 0],
    attention_bias=True,
  ),
  'phi3': family(
    transformers.Phi3Config,
    rope_parameters=rope(200.0, partial_rotary_factor=0.5),
    num_attention_heads=3,
    num_key_value_heads=1,
    sliding_window=9,
    bos_token_id=None,
  ),
}


def write_model(name, folder, eos_id):
  torch.manual_seed(0)
  config = CONFIGS[name](bos_token_id=eos_id, eos_token_id=eos_id)
  model = transformers.AutoModelForCausalLM.from_config(config)
  with torch.no_grad():
    for parameter, weight in model.named_parameters():
      # Far from the small start, where every logit is about the same, and with
      # biases and norms that a swapped or forgotten weight would show in.
      is_norm = parameter.endswith('weight') and (
        'ln_' in parameter or 'norm' in parameter
      )
      weight.copy_(float(is_norm) + 0.25 * torch.randn(weight.shape))
  model.save_pretrained(folder)
  (folder / 'generation_config.json').unlink()


def compute(model, tokens):
  """Returns inputs, and what PyTorch finds: loss, logits, gradient, greedy tokens.

  Args:
    model: the model.
    tokens: how many ids its tokenizer has.
  """
  rows, prompt_length, length, source = 3, 4, 11, 6
  generator = torch.Generator().manual_seed(1)
  ids = torch.randint(0, VOCAB - 1, (rows, length), generator=generator)
  prompt = torch.randn(prompt_length, WIDTH, generator=generator)
  prompt.requires_grad_(True)
  embed = model.get_input_embeddings()
  prompts = prompt.expand(rows, -1, -1)
  embeds = torch.cat([prompts, embed(ids)], dim=1)  # [B, P + T, H]
  logits = model(inputs_embeds=embeds).logits  # [B, P + T, V]
  at_target = logits[:, prompt_length + source - 1 : -1]
  loss = torch.nn.functional.cross_entropy(
    at_target.flatten(0, 1), ids[:, source:].flatten()
  )
  loss.backward()
  return {
    'input_ids': ids.numpy().astype(np.int32),
    'source_length': np.int32(source),
    'soft_prompt': prompt.detach().numpy(),
    'loss': loss.detach().numpy(),
    'prompt_gradient': prompt.grad.numpy(),
    'bare_logits': model(input_ids=ids).logits.detach().numpy(),
    'greedy_ids': greedy(model, tokens, prompts.detach(), ids[:, :source]),
  }


@torch.no_grad()
def greedy(model, tokens, prompts, ids):
  """Returns the likeliest tokens one after the other, without a cache, [B, new]."""
  source = ids.shape[1]
  for _ in range(NEW_TOKENS):
    embeds = torch.cat([prompts, model.get_input_embeddings()(ids)], dim=1)
    logits = model(inputs_embeds=embeds, use_cache=False).logits[:, -1, :tokens]
    best, second = logits.topk(2).values.unbind(-1)
    assert (best - second).min() > CLEAR, 'choose another seed'
    ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
  return ids[:, source:].numpy().astype(np.int32)


def main(name, folder):
  folder = pathlib.Path(folder)
  if not (folder / 'model.safetensors').exists():
    folder.mkdir(parents=True, exist_ok=True)
    write_model(name, folder, write_tokenizer(folder))
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, attn_implementation='eager'
  )
  tokens = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
  outputs = compute(model.eval(), tokens.get_vocab_size())
  np.savez_compressed(folder / 'torch_outputs.npz', **outputs)


if __name__ == '__main__':
  if len(sys.argv) != 3 or sys.argv[1] not in CONFIGS:
    sys.exit(__doc__)
  main(*sys.argv[1:])
