"""A prompt's embeddings and how to use them, for engines that take embeddings."""

import json

import numpy as np
import safetensors.numpy

from jaxprompt import errors

WHAT = "a prompt's embeddings"
ARRAY, USE = 'prompt.safetensors', 'prompt.json'
_MADE_BY = '"made_by": "jaxprompt"'


def is_ours(directory, names):
  """Returns whether a directory of such names is one of `files_of`, and no more."""
  with errors.reading(directory / USE, 'choose another --output'):
    return names == {ARRAY, USE} and _MADE_BY in (directory / USE).read_text(
      'utf-8', 'replace'
    )


def files_of(prompt, template, *, base, weights, spec):
  """Returns {name: bytes} of a prompt's files.

  Args:
    prompt: `trained.TrainedPrompt` of virtual tokens.
    template: `template.Template` of the model's tokenizer.
    base: the frozen model's hub id or path.
    weights: the fingerprint of its weights.
    spec: `lm.spec.Spec` of the model.
  """
  embeddings = np.ascontiguousarray(prompt.arrays['embeddings'], np.float32)
  use = {
    'made_by': 'jaxprompt',
    'model': base,
    'weights': weights,
    'name': prompt.task.prompt_name,
    'task': prompt.task.name,
    'position': prompt.position,
    'length': len(embeddings),
    # Of the table's rows in the model; the prompt is as what comes of that.
    'embedding_scale': spec.embedding_scale,
    # A row: source, newline, a space and the target, the end of text.
    'source': prompt.task.source,
    'newline': '\n',
    'target': prompt.task.target,
    'max_new_tokens': prompt.max_new_tokens,
    # Ranked by likelihood, not generated, if there are any.
    'labels': list(prompt.task.labels),
    'calibration': prompt.calibration,
    'stop_token_ids': list(template.end_ids),
  }
  return {
    ARRAY: safetensors.numpy.save({'embeddings': embeddings}),
    USE: json.dumps(use, indent=2).encode(),
  }
