"""Trains one task on models of several sizes: does a soft prompt gain more with size?

  python benchmarks/scale.py OUTPUT_DIR MODEL [MODEL ...] [--config=qa] [--FLAG ...]

MODEL is a hub id or a checkpoint's directory. Other flags are given to the command as
they are: --config.data.path=DIR, --config.prompt.kind=deep. Each model has a workdir in
OUTPUT_DIR, so a call that was stopped goes on where it was. OUTPUT_DIR/scale.html is
the comparison page, which shows the gain against the number of parameters; a table is
printed.
"""

import argparse
import json
import pathlib
import subprocess
import sys

from jaxprompt.runs import results


def command(*flags):
  subprocess.run([sys.executable, '-m', 'jaxprompt.main', *map(str, flags)], check=True)


def row(found):
  """Returns a line of the table, from the content of a results.json."""
  cells = [found['model'], f'{found["model_parameters"]:,}']
  for figure in ('loss', found['config']['metrics'][0]):
    other = results.best_other(found, figure)
    own = results.difference(found, figure, 'soft', other)
    low, high = own['ci95']
    cells += [
      f'{found["test"]["soft"][figure]:.3f}',
      f'{own["difference"]:+.3f} [{low:+.3f}, {high:+.3f}] than {other}',
    ]
  return f'| {" | ".join(cells)} |'


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('output', type=pathlib.Path)
  parser.add_argument('models', nargs='+')
  parser.add_argument('--config', default='qa')
  args, flags = parser.parse_known_args()
  workdirs = [args.output / pathlib.PurePath(model).name for model in args.models]
  if len(set(workdirs)) < len(workdirs):
    parser.error(f'{args.models} have the same last name; rename a directory')
  for model, workdir in zip(args.models, workdirs, strict=True):
    own = (f'--workdir={workdir}', f'--config.model.path={model}')
    command(f'--config={args.config}', *own, *flags)
  page = args.output / 'scale.html'
  command('--mode=compare', *workdirs, f'--output={page}')
  print('| model | parameters | soft: loss | against the best other | main metric | |')
  print('|---|---|---|---|---|---|')
  found = [json.loads((each / 'results.json').read_text()) for each in workdirs]
  for each in sorted(found, key=lambda each: each['model_parameters']):
    print(row(each))


if __name__ == '__main__':
  main()
