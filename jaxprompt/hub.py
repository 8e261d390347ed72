"""The Hugging Face hub: checks before a download, and failures in one clear line."""

import contextlib
import os
import pathlib

import httpx
import huggingface_hub
import requests
from huggingface_hub import constants
from huggingface_hub import errors as hub_errors

from jaxprompt import errors

# What huggingface_hub asks with: requests before its release 1, httpx since.
_FAILURES = (requests.RequestException, httpx.HTTPError)
_SECONDS = 10.0  # to answer; the libraries' own retries would wait for minutes
_LOCAL = {'model': 'a local directory', 'dataset': 'a local file or directory'}
_IF_CACHED = 'set HF_HUB_OFFLINE=1 if the cache already holds it'
_KINDS = {'model.path': 'model', 'data.path': 'dataset'}
_LOGIN = 'log in with `hf auth login`'
_REFUSALS = {
  401: f'the hub does not accept the token; {_LOGIN}, or correct HF_TOKEN',
  403: f'the hub forbids it to this token; {_LOGIN} with one that may read it',
  429: (
    'the hub has had too many requests from here; wait some minutes, or '
    f'{_LOGIN}, which allows more, or {_IF_CACHED}'
  ),
}


def require(repo_id, field):
  """Checks that the hub has a repository; offline, its cache is all there is to ask.

  Args:
    repo_id: e.g. 'gpt2'.
    field: the config field that named it, 'model.path' or 'data.path'.

  Returns:
    The whole id by which the hub has it: 'openai-community/gpt2'; offline, `repo_id`.

  Raises:
    UserError: says why the repository cannot be had.
  """
  if constants.HF_HUB_OFFLINE:
    return repo_id
  api, repo_type = huggingface_hub.HfApi(), _KINDS[field]
  try:
    return api.repo_info(repo_id, repo_type=repo_type, timeout=_SECONDS).id
  except (*_FAILURES, hub_errors.HFValidationError) as e:
    reason = _refusal(e, repo_id, repo_type)
    raise errors.UserError(f'{field} {repo_id!r} {reason}') from e


def _refusal(error, repo_id, repo_type):
  """Returns what went wrong with a request and what to do, as words after the id."""
  hub = constants.ENDPOINT
  if isinstance(error, hub_errors.GatedRepoError):  # also a RepositoryNotFoundError
    page = f'{hub}/{"datasets/" if repo_type == "dataset" else ""}{repo_id}'
    return f'is gated; accept its licence at {page}, and {_LOGIN}'
  if isinstance(
    error, hub_errors.RepositoryNotFoundError | hub_errors.HFValidationError
  ):
    return (
      f'is neither {_LOCAL[repo_type]} nor a {repo_type} on the hub; correct it, or '
      f'{_LOGIN} if it is private or gated'
    )
  response = getattr(error, 'response', None)
  if response is None:
    return (
      f'cannot be had: the hub ({hub}) cannot be reached; give '
      f'{_LOCAL[repo_type]}, or {_IF_CACHED}'
    )
  status = response.status_code
  failure = f'the hub ({hub}) fails; try again later, or {_IF_CACHED}'
  return f'cannot be had: {_REFUSALS.get(status, failure)} (status {status})'


@contextlib.contextmanager
def one_line(name, field):
  """Turns what the hub's libraries raise for a user's mistake into a `UserError`."""
  try:
    yield
  except errors.UserError:
    raise
  except Exception as e:  # whatever the libraries raise
    refused = _refused_request(e)
    if refused:
      reason = _refusal(refused, name, _KINDS[field])
      raise errors.UserError(f'{field} {name!r} {reason}') from e
    remedy = offline_remedy(name, field) if isinstance(e, OSError) else ''
    raise errors.UserError(
      f'{field} {name!r} cannot be loaded: {errors.reason(e)}{remedy}'
    ) from e


def _refused_request(error):
  """Returns the error of a request that the hub refused: it or a cause; or None."""
  while error is not None:
    response = getattr(error, 'response', None)
    if response is not None and response.status_code != 404:  # 404: it lacks a file
      return error
    error = error.__cause__ or error.__context__
  return None


def offline_remedy(name, field):
  """Returns the end of an error's line; the cache may know the id by another name."""
  if os.path.isdir(name) or not constants.HF_HUB_OFFLINE:
    return ''
  folders = pathlib.Path(constants.HF_HUB_CACHE).glob(f'{_KINDS[field]}s--*')
  cached = {'/'.join(folder.name.split('--')[1:]) for folder in folders}
  others = [
    each
    for each in sorted(cached - {name})
    if each.rpartition('/')[2] == name.rpartition('/')[2]
  ]
  if others:
    return (
      f'; HF_HUB_OFFLINE is set, and the cache has {others[0]!r}: set {field} to it'
    )
  return f'; HF_HUB_OFFLINE is set: unset it, or give {_LOCAL[_KINDS[field]]}'


def find(repo_id, name):
  """Returns the local path of a model's file, downloaded if need be.

  None if the model has none, or, offline, if the cache has none. What else the hub's
  libraries find wrong, they raise: a hub that fails has not said that there is none.
  """
  try:
    return huggingface_hub.hf_hub_download(repo_id, name)
  except hub_errors.LocalEntryNotFoundError:
    if not constants.HF_HUB_OFFLINE:
      raise
  except hub_errors.EntryNotFoundError:
    pass
  return None


def load_dataset(path, subset):
  """Downloads a data set, or takes it from the cache; returns {split: rows}."""
  # By its whole id: huggingface_hub 1 reads no data set by a name without an owner.
  path = require(path, 'data.path')
  import datasets  # here: a fifth of the start, and no run on local files needs it

  with one_line(path, 'data.path'):
    return datasets.load_dataset(path, subset or None)
