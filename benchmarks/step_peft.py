"""The other side of step.py: PEFT's prompt tuning, as its documentation uses it."""

import sys
import time

import numpy as np
import peft
import torch
import transformers
import worker


def main(model, inputs):
  inputs = np.load(inputs)
  ids = torch.from_numpy(inputs['ids'])
  labels = ids.clone()
  labels[:, : inputs['source']] = -100
  base = transformers.GPT2LMHeadModel.from_pretrained(model)
  prompt_ids = torch.from_numpy(inputs['prompt_ids'])
  prompt = base.transformer.wte(prompt_ids).detach().clone()
  config = peft.PromptTuningConfig(
    task_type=peft.TaskType.CAUSAL_LM, num_virtual_tokens=len(prompt)
  )
  tuned = peft.get_peft_model(base, config)
  trained = [weight for weight in tuned.parameters() if weight.requires_grad]
  assert len(trained) == 1
  with torch.no_grad():
    trained[0].copy_(prompt)
  # .train() would turn on the frozen model's dropout, which the other side has not.
  tuned.eval()
  optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.0)

  def take_step():
    began = time.perf_counter()
    loss = tuned(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    loss = loss.item()
    return {'seconds': time.perf_counter() - began, 'loss': loss}

  worker.answer({'step': take_step})


if __name__ == '__main__':
  main(*sys.argv[1:])
