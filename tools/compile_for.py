"""Compiles a run's programs for devices that need not be there; nothing is run.

python -m tools.compile_for v5e:2x4 --config=qa --config.model.path=DIR
  --config.model.dtype=bfloat16 --config.parallel.model=8 --config.train.batch_size=8

Of the model, config.json is read alone: neither weights nor a tokenizer. TPUs are
compiled for by libtpu (pip install 'jax[tpu]'); `cpu` stands for the devices that JAX
sees. Prints a Markdown table of what one device does, a row for each program:

  collectives, MB sent: see `hlo.Collective`.
  GB held, at peak: see `compiled.Memory`.
  GFLOP: of matrix products. Of the tokens that are generated, the first is counted, and
    of those that follow one.
  GB moved: see `hlo.traffic`, of the same.
  ms at least: the operations at the chip's peak, or the bytes at its memory's,
    whichever takes longer.
"""

import argparse
import collections
import os
import sys
import time
from typing import NamedTuple

import jax
from jax.experimental import topologies

from jaxprompt import config as config_lib
from jaxprompt import flags
from jaxprompt.devices import compiled as compiled_lib
from jaxprompt.devices import devices
from jaxprompt.lm import loading
from jaxprompt.lm import model as model_lib
from jaxprompt.runs import programs
from jaxprompt.runs import setup
from tools import hlo


class Chip(NamedTuple):
  """A TPU chip, by cloud.google.com/tpu/docs/system-architecture-tpu-vm."""

  accelerator: str  # what TPU VMs call a host's chips
  operations: float  # a second, in bfloat16
  bandwidth: float  # bytes a second, of its memory


CHIPS = {
  'v5e': Chip('v5litepod-{}', 197e12, 819e9),
  'v5p': Chip('v5p-{}', 459e12, 2765e9),
  'v6e': Chip('v6e-{}', 918e12, 1640e9),
}
HEAD = (
  *('program', 'collectives', 'MB sent', 'GB held', 'GB at peak', 'GFLOP'),
  *('GB moved', 'ms at least', 's to compile'),
)


def topology(name):
  """Returns the devices of a topology, and their `Chip` or None.

  Args:
    name: KIND:XxY of `CHIPS`, such as 'v5e:2x4'; or 'cpu', the devices that are there.
  """
  kind, _, sizes = name.partition(':')
  if kind == 'cpu':
    return jax.devices(), None
  # What libtpu would ask a TPU VM for; a single chip is a host of its own.
  alone = sizes == '1x1'
  os.environ['TPU_SKIP_MDS_QUERY'] = '1'
  os.environ['TPU_ACCELERATOR_TYPE'] = CHIPS[kind].accelerator.format(1 if alone else 4)
  os.environ['TPU_WORKER_HOSTNAMES'] = 'localhost'
  os.environ['ALLOW_MULTIPLE_LIBTPU_LOAD'] = '1'  # none holds a chip
  found = topologies.get_topology_desc(
    platform='tpu',
    topology_name=name,
    **({'chips_per_host_bounds': (1, 1, 1)} if alone else {}),
  )
  return found.devices, CHIPS[kind]


def compile_all(config, found, sizes, chip=None, only=''):
  """Compiles the programs of a run; yields each one's name, text and table's row.

  Args:
    config: of one run.
    found: devices, see `topology`.
    sizes: `programs.Sizes`.
    chip: `Chip`; None = how long a program takes at least is not said.
    only: programs whose name holds it.
  """
  parallel = {**config.parallel, 'mode': 'jit'}
  layout = devices.layout(**parallel, devices=list(found))
  layout.check_divides(config.train.batch_size)
  _, _, spec = loading.read_spec(config.model.path)
  dtype = loading.DTYPES[config.model.dtype]
  lm = model_lib.LanguageModel(spec, dtype, end_ids=(0,))
  lm = lm.on(layout.platform, config.model.precision)
  params = setup.abstract_params(lm, layout)
  given = (config, lm, layout, params, sizes)
  for program in (*programs.of_run(*given), programs.of_predict(*given)):
    if only in program.name:
      traced = program.traced()
      start = time.monotonic()
      compiled = traced.lower().compile()
      seconds = time.monotonic() - start
      operations = compiled_lib.operations(traced, layout)
      text, memory = compiled.as_text(), compiled_lib.memory(compiled)
      cells = _cells(text, memory, operations, chip, seconds)
      yield program.name, text, [program.name, *cells]


def _cells(text, memory, operations, chip, seconds):
  sent, moved = hlo.collectives(text), hlo.traffic(text)
  floor = chip and max(operations / chip.operations, moved / chip.bandwidth)
  times = collections.Counter()
  for each in sent:
    times[each.operation] += each.times
  return [
    ', '.join(f'{count:,} {name}' for name, count in times.items()),
    f'{sum(each.sent for each in sent) / 1e6:,.2f}',
    f'{memory.held / 1e9:.2f}',
    f'{memory.peak / 1e9:.2f}',
    f'{operations / 1e9:,.0f}',
    f'{moved / 1e9:.2f}',
    f'{1e3 * floor:.1f}' if chip else '',
    f'{seconds:.0f}',
  ]


def _arguments(argv):
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('topology', help='v5e:2x4 or the like, or cpu')
  parser.add_argument('--config', required=True, help='as of the command')
  parser.add_argument('--tokens', type=int, default=256, help='of a row, with target')
  parser.add_argument('--targets', type=int, default=32, help='of them')
  parser.add_argument('--only', default='', help='programs whose name holds this')
  parser.add_argument('--text', help='a directory to write the compiled programs to')
  return parser.parse_known_args(argv)


def main():
  arguments, others = _arguments(sys.argv[1:])
  values, _ = flags.parse(['compile_for', f'--config={arguments.config}', *others])
  config = config_lib.single_run(values.config)
  found, chip = topology(arguments.topology)
  source = arguments.tokens - arguments.targets
  apart = config.prompt.position == 'suffix'
  row = (source if apart else arguments.tokens, arguments.targets)
  for cells in (HEAD, ['---'] * len(HEAD)):
    print(f'| {" | ".join(cells)} |')
  sizes = programs.Sizes(row, row, source)
  for name, text, cells in compile_all(config, found, sizes, chip, arguments.only):
    print(f'| {" | ".join(cells)} |', flush=True)
    if arguments.text:
      with open(os.path.join(arguments.text, f'{name}.txt'), 'w') as file:
        file.write(text)


if __name__ == '__main__':
  main()
