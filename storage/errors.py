"""What Google's libraries raise, as one line that says what to do."""

import contextlib
import re
from collections.abc import Iterator

import requests
from google.api_core import exceptions
from google.auth import exceptions as auth
from google.cloud.storage.exceptions import DataCorruption

from storage import files

CREDENTIALS = 'run `gcloud auth application-default login`, or run as a service account'


@contextlib.contextmanager
def explained(uri: str, only_the_bucket: bool = False) -> Iterator[None]:
  """Turns what the libraries raise into an OSError about `uri`.

  Args:
    uri: what the call is about.
    only_the_bucket: whether the call says "not found" only where there is no such bucket.

  Raises:
    FileNotFoundError, PermissionError: for want of the object or its bucket, of credentials or their permission.
    files.Unavailable: no answer, or only ones that say to try again, for as long as a call is repeated.
    OSError: anything else that went wrong.
  """
  bucket = re.sub(r'(gs://[^/]*).*', r'\1', uri)
  try:
    yield
  except exceptions.NotFound as error:
    what = (
      f'there is no bucket {bucket}; create it, or'
      if only_the_bucket
      else 'there is no such object;'
    )
    raise FileNotFoundError(f'{uri}: {what} correct the name') from error
  except exceptions.Forbidden as error:
    raise PermissionError(
      f'{uri}: permission denied; give the account that runs this roles/storage.objectUser on {bucket} ({_line(error)})'
    ) from error
  except (exceptions.Unauthorized, auth.RefreshError) as error:
    raise PermissionError(
      f'{uri}: Google refuses the credentials ({_line(error)}); {CREDENTIALS}'
    ) from error
  except auth.DefaultCredentialsError as error:
    raise PermissionError(f'{uri}: there are no Google credentials here; {CREDENTIALS}') from error
  except (exceptions.RetryError, exceptions.ServerError, exceptions.TooManyRequests, auth.TransportError,
          requests.RequestException) as error:  # fmt: skip
    raise files.Unavailable(
      f'{uri}: Cloud Storage does not answer ({_line(error)}); try again later'
    ) from error
  except (exceptions.GoogleAPICallError, auth.GoogleAuthError, DataCorruption) as error:
    raise OSError(f'{uri}: {_line(error)}') from error


def _line(error: Exception) -> str:
  """The first line, of the cause where a retry gave up."""
  cause = getattr(error, 'cause', None) or error
  return (str(cause).splitlines() or [type(cause).__name__])[0].rstrip(':')
