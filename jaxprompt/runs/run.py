"""One run from its config to its results: trained, evaluated, or a prompt measured."""

import contextlib
import logging
from typing import NamedTuple

import jax

from jaxprompt import errors
from jaxprompt.devices import devices
from jaxprompt.devices import processes
from jaxprompt.prompts import kinds
from jaxprompt.runs import comparison
from jaxprompt.runs import records
from jaxprompt.runs import setup
from jaxprompt.runs import trained_prompts
from jaxprompt.runs import workdir as workdir_lib
from jaxprompt.training import checkpoint
from jaxprompt.training import epochs
from jaxprompt.training import loop
from jaxprompt.training import terminal
from jaxprompt.training import watch

log = logging.getLogger(__name__)


def train(config, workdir, termination):
  """Trains, or goes on training, and compares the arms; returns results.json's content.

  Args:
    config: checked.
    workdir: an epath, locked.
    termination: `loop.Termination`.
  """
  finished = processes.from_first(lambda: records.read_results(workdir))
  is_over = finished and epochs.is_over(finished['epochs'], config.train)
  if is_over and records.is_compared_alike(finished, config):
    log.info('this run has finished; these are its results')
    return finished
  experiment = build(config, workdir, termination, trains=True)
  prompt = trained_prompts.initial_prompt(experiment)
  trained = fit(experiment, prompt, workdir, termination)
  found = comparison.compare(
    experiment, trained.best, trained.epochs, workdir, trained.initial
  )
  watch.warn_of_no_effect(found['test'])
  return found


@contextlib.contextmanager
def held_workdir(path, config):
  """Opens and locks the workdir that is this config's alone; gives its epath."""
  with contextlib.ExitStack() as stack:
    with processes.together():
      workdir = workdir_lib.open_workdir(path)
      stack.enter_context(workdir_lib.lock(workdir))
    workdir_lib.check_shared(workdir)
    with processes.together():
      records.check_config(workdir, config.to_dict(), free=records.FREE)
    yield workdir


class Fitted(NamedTuple):
  """What training has found: a prompt's arrays, see `kinds`, folded, on the host."""

  best: dict  # of the validation with the lowest loss
  initial: dict  # before training
  epochs: list[dict]  # the records of the validations, see `epochs`


def fit(experiment, prompt, workdir, termination):
  """Trains a prompt, or goes on where the workdir has it; returns `Fitted`.

  Args:
    experiment: `setup.Experiment`, its content checked.
    prompt: its arrays before training, see `kinds`.
    workdir: an epath, locked.
    termination: `loop.Termination`.
  """
  config = experiment.config
  with processes.together():
    loop.try_optimizer(config.train, experiment.params, prompt)
    records.write_config(workdir, config, experiment.fingerprints)
  checkpoints = checkpoint.Checkpoints(
    workdir / 'checkpoints', keep=config.checkpoint.keep
  )
  trainer = loop.Trainer(experiment, prompt, workdir, checkpoints, termination)
  trainer.run()
  best, initial = jax.device_get(
    (trainer.state.best_prompt, trainer.state.initial_prompt)
  )
  return Fitted(best, initial, trainer.place.epochs)


def evaluate_best(config, workdir, termination):
  """Restores the best prompt and compares the arms again; returns as `train` does.

  Raises:
    UserError: if no epoch has been trained in the workdir.
  """
  with processes.together():
    best, validated = trained_prompts.best_prompt(workdir)
    initial = checkpoint.read_initial(workdir / 'checkpoints')
  processes.check_same({'the content of the best prompt': kinds.digest(best)})
  experiment = build(config, workdir, termination)
  return comparison.compare(experiment, best, validated, workdir, initial)


def evaluate_given(config, workdir, termination):
  """Compares the arms with the prompt that `prompt.init` names, as it is.

  Arguments and result are those of `train`; no epoch is trained.

  Raises:
    UserError: if the workdir has a prompt of its own, or none is where it should be.
  """
  with processes.together():
    if checkpoint.read_best(workdir / 'checkpoints') is not None:
      raise errors.UserError(
        f'--workdir {str(workdir)!r} has a trained prompt of its own, whose results '
        'would be lost; give another directory to measure --prompt in'
      )
  experiment = build(config, workdir, termination)
  with processes.together():
    given = trained_prompts.load_prompt(
      experiment, workdir_lib.resolve(config.prompt.init)
    )
    records.write_config(workdir, config, experiment.fingerprints)
  processes.check_same({'the content of --prompt': kinds.digest(given.arrays)})
  return comparison.compare(experiment, given.arrays, [], workdir)


def build(config, workdir, termination, *, trains=False):
  """Returns the `setup.Experiment` of a config, the same in all processes.

  Args:
    config, workdir, termination: see `train`.
    trains: whether the devices are to share the batches of training.

  Raises:
    UserError: for what the config asks for and cannot have, or if the content is not
      that of the workdir, or of the other processes.
  """
  with processes.together():
    layout = devices.layout(**config.parallel)
    if trains:
      layout.check_divides(config.train.batch_size)
    experiment = setup.build(config, layout, terminal.show_progress(termination.check))
    records.check_content(workdir, experiment.fingerprints)
  own = experiment.fingerprints.items()
  processes.check_same({f'the content of {name}': text for name, text in own})
  return experiment
