"""Makes tests/fixtures/KIND_NAME: an adapter that PEFT saves, and what PEFT computes.

The tests compare with the stored values, so that they need neither torch nor PEFT. To
make them anew, in an environment with both (benchmarks/peer-requirements.txt):

  python tools/make_peft_fixture.py gpt2 peft
"""

import os
import pathlib
import sys

import numpy as np
import peft
import torch
import transformers

FIXTURES = pathlib.Path(__file__).parent.parent / 'tests' / 'fixtures'
PROMPT, SOURCE, LENGTH, NEW = 4, 6, 11, 5
KINDS = {
  'peft': lambda **sizes: peft.PromptTuningConfig(prompt_tuning_init='RANDOM', **sizes),
  'prefix': peft.PrefixTuningConfig,
  'projected': lambda **sizes: peft.PrefixTuningConfig(
    prefix_projection=True, encoder_hidden_size=7, **sizes
  ),
  'ptuning': lambda **sizes: peft.PromptEncoderConfig(encoder_hidden_size=7, **sizes),
}


def main(name, kind):
  os.chdir(FIXTURES)  # so that the adapter names its base by its folder's name alone
  torch.manual_seed(0)
  base = transformers.AutoModelForCausalLM.from_pretrained(name)
  config = KINDS[kind](task_type='CAUSAL_LM', num_virtual_tokens=PROMPT)
  model = peft.get_peft_model(base, config).eval()
  folder = FIXTURES / f'{kind}_{name}'
  model.save_pretrained(folder)
  (folder / 'README.md').unlink()
  ids = torch.randint(1, base.config.vocab_size, (1, LENGTH))
  labels = ids.clone()
  labels[:, :SOURCE] = -100
  with torch.no_grad():
    loss = model(input_ids=ids, labels=labels).loss
    source = ids[:, :SOURCE]
    out = model.generate(
      input_ids=source, max_new_tokens=NEW, do_sample=False, pad_token_id=0
    )
  np.savez(
    folder / 'outputs.npz',
    input_ids=ids.numpy().astype(np.int32),
    source_length=np.int32(SOURCE),
    loss=loss.numpy(),
    generated=out[:, -NEW:].numpy().astype(np.int32),
  )


if __name__ == '__main__':
  if len(sys.argv) != 3 or sys.argv[2] not in KINDS:
    sys.exit(__doc__)
  main(*sys.argv[1:])
