"""Errors of Google's libraries as one line that names the remedy."""

import contextlib
import re
from collections.abc import Iterator

import requests
from google.api_core import exceptions
from google.auth import exceptions as auth
from google.cloud.storage.exceptions import DataCorruption

from storage.base import Unavailable

CREDENTIALS_REMEDY = 'run `gcloud auth application-default login`, or run as a service account'
OUTAGES = (
  exceptions.RetryError,
  exceptions.ServerError,
  exceptions.TooManyRequests,
  auth.TransportError,
  requests.RequestException,
)


@contextlib.contextmanager
def translate_errors(uri: str, only_the_bucket: bool = False) -> Iterator[None]:
  """Turns the libraries' errors into an OSError about `uri`, or Unavailable.

  Args:
    uri: what the call is about.
    only_the_bucket: whether the call answers "not found" only if the bucket does not exist.

  Raises:
    FileNotFoundError, PermissionError: the object or bucket does not exist, or credentials are
      missing or insufficient.
    Unavailable: no answer, or only ones that ask to try again, within the retry deadline; or
      credentials that there are could not be renewed, as happens in the middle of a long job.
    OSError: anything else that went wrong.
  """
  try:
    yield
  except exceptions.NotFound as error:
    bucket_remedy = f'there is no bucket {_bucket(uri)}; create it, or'
    what = bucket_remedy if only_the_bucket else 'there is no such object;'
    raise FileNotFoundError(f'{uri}: {what} correct the name') from error
  except (exceptions.Forbidden, auth.DefaultCredentialsError) as error:
    raise PermissionError(f'{uri}: {_permission(error, uri)}') from error
  except (exceptions.Unauthorized, auth.RefreshError) as error:
    why = f'Google refuses the credentials ({_line(error)}); {CREDENTIALS_REMEDY}'
    raise Unavailable(f'{uri}: {why}') from error
  except OUTAGES as error:
    why = f'Cloud Storage is not responding ({_line(error)}); try again later'
    raise Unavailable(f'{uri}: {why}') from error
  except DataCorruption as error:
    why = f'its content changed on its way ({_line(error)}); try again'
    raise Unavailable(f'{uri}: {why}') from error
  except (exceptions.GoogleAPICallError, auth.GoogleAuthError) as error:
    raise OSError(f'{uri}: {_line(error)}') from error


def _permission(error: Exception, uri: str) -> str:
  """Returns what is missing, and the remedy."""
  if isinstance(error, exceptions.Forbidden):
    return (
      'permission denied; give the account that runs this roles/storage.objectUser on '
      f'{_bucket(uri)} ({_line(error)})'
    )
  return f'there are no Google credentials here; {CREDENTIALS_REMEDY}'


def _bucket(uri: str) -> str:
  return re.sub(r'(gs://[^/]*).*', r'\1', uri)


def _line(error: Exception) -> str:
  """Returns the first line of the message; of the cause's, if retries were given up."""
  cause = getattr(error, 'cause', None) or error
  return (str(cause).splitlines() or [type(cause).__name__])[0].rstrip(':')
