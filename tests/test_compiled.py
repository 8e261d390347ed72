"""What is read of compiled programs, here and for TPUs that are not there."""

import importlib.util
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from conftest import CHECKPOINT
from conftest import ROOT

from jaxprompt import config as config_lib
from jaxprompt.devices import compiled
from jaxprompt.devices import devices
from jaxprompt.devices import shapes
from jaxprompt.lm import loading
from jaxprompt.lm import model
from jaxprompt.runs import programs
from jaxprompt.runs import setup
from tools import compile_for
from tools import hlo

LIBTPU = importlib.util.find_spec('libtpu')
_EVALUATION = ('losses', 'generation', 'generation, two prompts')
SIZES = programs.Sizes(train=(20, 6), evaluation=(20, 6), source=14)


def _array(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_what_a_loop_does_counts_as_often_as_it_does_it():
  layout = devices.layout('jit', -1, 1)
  rounds, rows, width = 3, 2 * layout.mesh.size, 5

  def program(a, b, x):
    del a

    def body(x, _):
      return jax.lax.psum(x @ b, devices.DATA), None

    x, _ = jax.lax.scan(body, x, length=rounds)
    return jax.lax.psum(x, devices.DATA)

  x = shapes.rows(layout, _array(rows, width))
  b = shapes.everywhere(layout, _array(width, width))
  traced = layout.spread(program).trace((), b, x)
  assert compiled.operations(traced, layout) == rounds * 2 * 2 * width * width
  sent = hlo.collectives(traced.lower().compile().as_text())
  assert {each.operation for each in sent} == {'all-reduce'}
  assert {each.size for each in sent} == {4 * 2 * width}
  assert sum(each.times for each in sent) == rounds + 1


def test_what_a_program_moves_is_off_the_chip_and_whole():
  text = """
%fused (a: f32[6], b: f32[6]) -> f32[6] {
  %a = f32[6]{0} parameter(0)
  %b = f32[6]{0} parameter(1)
  ROOT %sum = f32[6]{0} add(%a, %b)
}

ENTRY %main (p: f32[6]) -> f32[6] {
  %p = f32[6]{0} parameter(0)
  %start = (f32[6]{0:S(1)}, f32[6]{0}, u32[]{:S(2)}) copy-start(%p)
  %near = f32[6]{0:S(1)} copy-done(%start)
  ROOT %fusion = f32[6]{0} fusion(%near, %p), kind=kLoop, calls=%fused
}
"""
  copied, read_and_written = 4 * 6, 2 * 4 * 6
  assert hlo.traffic(text) == copied + read_and_written


def test_rows_of_a_table_and_of_a_cache_are_what_is_moved():
  text = """
ENTRY %main (table: f32[90,3], rows: s32[4], cache: f32[70]) -> f32[70] {
  %table = f32[90,3]{1,0} parameter(0)
  %rows = s32[4]{0} parameter(1)
  %cache = f32[70]{0} parameter(2)
  %gather.1 = f32[4,3]{1,0} gather(%table, %rows)
  %new = f32[5]{0} slice(%gather.1)
  ROOT %dynamic-update-slice.2 = f32[70]{0} dynamic-update-slice(%cache, %new)
}
"""
  taken, made, written = 2 * 4 * 12 + 4 * 4, 4 * (12 + 5), 2 * 4 * 5
  assert hlo.traffic(text) == taken + made + written


def test_the_start_of_a_collective_counts_its_result_alone():
  text = """
ENTRY %main (p: f32[4]) -> f32[8] {
  %start = (bf16[4,3], bf16[8,3]) all-gather-start(%p), replica_groups={{0,1}}
  %done = bf16[8,3] all-gather-done(%start)
}
"""
  assert hlo.collectives(text) == [hlo.Collective('all-gather', 48, 1)]


def test_a_models_programs_compile_from_its_config_alone(tmp_path):
  shutil.copy(CHECKPOINT / 'config.json', tmp_path)
  config = config_lib.default('qa')
  config.model.path, config.prompt.position = str(tmp_path), 'suffix'
  found, chip = compile_for.topology('cpu')
  rows = {
    name: dict(zip(compile_for.HEAD, cells, strict=True))
    for name, _, cells in compile_for.compile_all(config, found, SIZES, chip)
  }
  assert list(rows) == ['contexts', 'train step', *_EVALUATION]
  assert {row['ms at least'] for row in rows.values()} == {''}  # of an unknown chip


def test_another_rate_or_warmup_is_the_same_program():
  """So a run that tries another compiles nothing: the cache has its step."""

  def step(**train):
    config = config_lib.default('qa')
    config.train.update(train)
    _, _, spec = loading.read_spec(str(CHECKPOINT))
    layout = devices.layout('jit', 1, 1, jax.devices()[:1])
    lm = model.LanguageModel(spec, 'float32', end_ids=(0,)).on('cpu', 'highest')
    params = setup.abstract_params(lm, layout)
    program = programs.of_run(config, lm, layout, params, SIZES)[0]
    return program.function.lower(*program.arguments).as_text()

  same = step(learning_rate=0.05)
  assert step(learning_rate=0.3, warmup=0) == same
  assert step(learning_rate=0.05, schedule='constant') != same


@pytest.mark.skipif(not LIBTPU, reason="libtpu is not there: pip install 'jax[tpu]'")
def test_a_step_and_generation_compile_for_tpus_that_are_not_there():
  command = [sys.executable, '-m', 'tools.compile_for', 'v5e:2x2', '--config=qa']
  small = [f'--config.model.path={CHECKPOINT}', '--tokens=20', '--targets=6']
  done = subprocess.run(
    [*command, *small],
    cwd=ROOT,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  head, _, *rows = (line.strip('| ').split(' | ') for line in done.stdout.splitlines())
  assert head == list(compile_for.HEAD)
  assert [row[0] for row in rows] == ['train step', *_EVALUATION]
  # Of the gradient with the loss and its tokens, and of all tokens.
  assert rows[0][1] == '2 all-reduce'


_PMAP = """
import sys
import jax
from jaxprompt import config as config_lib
from jaxprompt.devices import devices
from jaxprompt.lm import loading
from jaxprompt.lm import model
from jaxprompt.runs import programs
from jaxprompt.runs import setup
from jaxprompt.training import loop
from tools import compile_for
from tools import hlo

found, _ = compile_for.topology('v5e:8x8')
mesh, pmap = (devices.layout(m, 64, 1, devices=list(found)) for m in ('jit', 'pmap'))
tile = [tuple(x.coords[:2]) for x in pmap.home.devices.flat]
assert tile == [(0, 0), (1, 0), (0, 1), (1, 1)], tile

config = config_lib.default('qa')
config.model.path, config.train.batch_size = sys.argv[1], 128
_, _, spec = loading.read_spec(config.model.path)
lm = model.LanguageModel(spec, 'float32', end_ids=(0,)).on('tpu', 'default')
params = setup.abstract_params(lm, mesh)
sizes = programs.Sizes((20, 6), (20, 6), 14)
step = programs.of_run(config, lm, mesh, params, sizes)[0]
own = loop.train_program(lm, pmap, loop.optimizer(config.train), 1)

state, shared, rows = jax.tree.map(
  lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), step.arguments
)
rows = jax.tree.map(lambda x: x.update(shape=(64, 2, *x.shape[1:])), rows)
sent = [
  hlo.collectives(f.lower(*given).compile().as_text())
  for f, given in ((step.function, step.arguments), (own, (state, shared, rows)))
]
assert sent[0] == sent[1] and len(sent[0]) == 2, sent
"""


@pytest.mark.skipif(not LIBTPU, reason="libtpu is not there: pip install 'jax[tpu]'")
def test_pmap_sends_what_jit_does_on_tpus_of_which_a_host_owns_a_tile():
  done = subprocess.run(
    [sys.executable, '-c', _PMAP, str(CHECKPOINT)],
    cwd=ROOT,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
