"""PEFT's adapters: the files as PEFT writes them, and those it would refuse."""

import json

import numpy as np
import pytest
import safetensors.numpy
from conftest import arguments
from conftest import write_data

from jaxprompt import checkpoint
from jaxprompt import errors
from jaxprompt import main
from jaxprompt import peft
from jaxprompt import workdir as workdir_lib

PROMPT = np.random.default_rng(0).normal(size=(3, 24)).astype(np.float32)


def _write(directory):
  peft.write(
    directory,
    PROMPT,
    base='gpt2',
    blocks=2,
    heads=3,
    name='[QUESTIONANSWERING]',
    task='qa',
    template='{context}',
  )
  return directory


def test_an_adapter_comes_back_as_it_was_written(tmp_path):
  np.testing.assert_array_equal(peft.read(_write(tmp_path / 'a')), PROMPT)


def test_the_files_are_those_that_peft_writes(tmp_path):
  """By its 0.21.2: the keys, no final newline, and the tensor's file byte for byte."""
  _write(tmp_path)
  text = (tmp_path / 'adapter_config.json').read_text()
  config = json.loads(text)
  assert text == json.dumps(config, indent=2, sort_keys=True)
  assert len(config) == 17
  assert (config['num_virtual_tokens'], config['token_dim']) == (3, 24)
  assert (config['num_layers'], config['num_attention_heads']) == (2, 3)
  header = (
    b'{"__metadata__":{"format":"pt"},"prompt_embeddings":'
    b'{"dtype":"F32","shape":[3,24],"data_offsets":[0,288]}}'
  )
  header += b' ' * (-len(header) % 8)
  expected = len(header).to_bytes(8, 'little') + header + PROMPT.tobytes()
  assert (tmp_path / 'adapter_model.safetensors').read_bytes() == expected


def _rewrite(directory, **arrays):
  safetensors.numpy.save_file(arrays, directory / peft.WEIGHTS)


@pytest.mark.parametrize(
  'spoil, message',
  [
    (lambda d: (d / peft.CONFIG).write_text('{'), 'cannot be read'),
    (lambda d: (d / peft.CONFIG).write_text('{"peft_type": "LORA"}'), "'LORA'; expec"),
    (lambda d: (d / peft.WEIGHTS).unlink(), 'cannot be read'),
    (lambda d: (d / peft.WEIGHTS).write_bytes(b'torn'), 'cannot be read'),
    (lambda d: _rewrite(d, other=PROMPT), r'holds other \(3, 24\); expected'),
    (lambda d: _rewrite(d, prompt_embeddings=PROMPT[0]), 'expected prompt_embeddings'),
  ],
)
def test_an_adapter_that_is_none_is_refused(tmp_path, spoil, message):
  spoil(_write(tmp_path))
  with pytest.raises(errors.UserError, match=message):
    peft.read(tmp_path)


def test_a_run_is_exported_and_its_adapter_starts_another(tmp_path, capsys):
  data = write_data(tmp_path / 'data', 'qa')
  one, two, adapter = tmp_path / 'one', tmp_path / 'two', tmp_path / 'adapter'
  assert main.main(arguments('qa', one, data, 'train.epochs=1')) == 0
  export = ['jaxprompt', '--mode=export', f'--output={adapter}']
  assert main.main([*export, f'--workdir={one}']) == 0
  best, _ = checkpoint.read_best(workdir_lib.resolve(one) / 'checkpoints')
  np.testing.assert_array_equal(peft.read(adapter), best)
  again = (f'prompt.init={adapter}', 'train.learning_rate=0.0', 'train.epochs=1')
  assert main.main(arguments('qa', two, data, *again)) == 0
  copied, _ = checkpoint.read_best(workdir_lib.resolve(two) / 'checkpoints')
  np.testing.assert_array_equal(copied, best)
  after = arguments(
    'qa', tmp_path / 'three', data, 'prompt.position=suffix', 'train.epochs=1'
  )
  assert main.main(after) == 0
  assert main.main([*export, f'--workdir={tmp_path / "three"}']) == 2
  assert 'only a prefix can be exported' in capsys.readouterr().err
