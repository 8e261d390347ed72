"""The Hugging Face hub: checks before a download, and failures in one clear line."""

import contextlib

import huggingface_hub
import requests
from huggingface_hub import constants
from huggingface_hub import errors as hub_errors

from jaxprompt import errors

_SECONDS = 10.0  # to answer; the libraries' own retries would wait for minutes
_LOCAL = 'a local directory'


def require(repo_id, repo_type, field):
  """Checks that the hub has a repository; offline, its cache is all there is to ask.

  Args:
    repo_id: e.g. 'gpt2'.
    repo_type: 'model' or 'dataset'.
    field: the config field that named it, for the error.

  Raises:
    UserError: says whether the hub or the repository is out of reach.
  """
  if constants.HF_HUB_OFFLINE:
    return
  try:
    huggingface_hub.HfApi().repo_info(repo_id, repo_type=repo_type, timeout=_SECONDS)
  except (hub_errors.RepositoryNotFoundError, hub_errors.HFValidationError) as e:
    raise errors.UserError(
      f'{field} {repo_id!r} is neither {_LOCAL} nor a {repo_type} on the hub; correct '
      'it, or log in with `hf auth login` if it is private'
    ) from e
  except (requests.RequestException, hub_errors.HfHubHTTPError) as e:
    raise errors.UserError(
      f'{field} {repo_id!r}: the hub ({constants.ENDPOINT}) cannot be reached; give '
      f'{_LOCAL}, or set HF_HUB_OFFLINE=1 if the cache already holds it'
    ) from e


@contextlib.contextmanager
def one_line(name, field):
  """Turns what the hub's libraries raise for a user's mistake into a `UserError`."""
  try:
    yield
  except errors.UserError:
    raise
  except (OSError, ValueError, NotImplementedError) as e:
    offline = constants.HF_HUB_OFFLINE and isinstance(e, OSError)
    remedy = f'; HF_HUB_OFFLINE is set: unset it, or give {_LOCAL}' if offline else ''
    reason = ' '.join(str(e).split())
    raise errors.UserError(
      f'{field} {name!r} cannot be loaded: {reason}{remedy}'
    ) from e


def load_dataset(path, subset):
  """Downloads a data set, or takes it from the cache; returns {split: rows}."""
  require(path, 'dataset', 'data.path')
  import datasets  # here: a fifth of the start, and no run on local files needs it

  with one_line(path, 'data.path'):
    return datasets.load_dataset(path, subset or None)
