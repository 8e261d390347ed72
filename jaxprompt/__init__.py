"""Prompt tuning of frozen language models in JAX.

  import jaxprompt as jp

gives the Python API of `api`, `nouns` and `written`: docs/python.md. It is imported
when it is first used, since the command reads its flags before it imports JAX.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
  from jaxprompt.api import compare as compare
  from jaxprompt.api import generate as generate
  from jaxprompt.api import init_prompt as init_prompt
  from jaxprompt.api import load_data as load_data
  from jaxprompt.api import load_model as load_model
  from jaxprompt.api import load_prompt as load_prompt
  from jaxprompt.api import loss as loss
  from jaxprompt.api import merge as merge
  from jaxprompt.api import train as train
  from jaxprompt.errors import UserError as UserError
  from jaxprompt.nouns import Comparison as Comparison
  from jaxprompt.nouns import Data as Data
  from jaxprompt.nouns import Model as Model
  from jaxprompt.nouns import Prompt as Prompt
  from jaxprompt.nouns import Rows as Rows
  from jaxprompt.nouns import Run as Run
  from jaxprompt.nouns import Soft as Soft
  from jaxprompt.nouns import Task as Task
  from jaxprompt.tasks.tasks import TASKS as TASKS
  from jaxprompt.written import Bare as Bare
  from jaxprompt.written import BestHard as BestHard
  from jaxprompt.written import Chat as Chat
  from jaxprompt.written import FewShot as FewShot
  from jaxprompt.written import Hard as Hard

_PLACES = {
  'api': (
    *('compare', 'generate', 'init_prompt', 'load_data', 'load_model', 'load_prompt'),
    *('loss', 'merge', 'train'),
  ),
  'errors': ('UserError',),
  'nouns': ('Comparison', 'Data', 'Model', 'Prompt', 'Rows', 'Run', 'Soft', 'Task'),
  'tasks.tasks': ('TASKS',),
  'written': ('Bare', 'BestHard', 'Chat', 'FewShot', 'Hard'),
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}
__all__ = sorted(_PLACE_OF)


def __getattr__(name):
  if name not in _PLACE_OF:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_PLACE_OF[name]}'), name)


def __dir__():
  return sorted({*globals(), *__all__})
