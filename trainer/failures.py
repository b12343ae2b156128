"""Every way in which a run can fail, as one line and an exit code."""

import errno
import re
import sys

from absl import app

from storage import files
from trainer import exit_codes

RESUME = 'rerun the same command to resume'
MAKE_ROOM = {errno.ENOSPC, errno.EDQUOT}
# What the user has to change; after any other error of the system, trying again may help.
USERS = {
  errno.EACCES,
  errno.EEXIST,
  errno.EISDIR,
  errno.ELOOP,
  errno.ENAMETOOLONG,
  errno.ENOENT,
  errno.ENOTDIR,
  errno.EPERM,
  errno.EROFS,
}
# Errors of `files` that name the remedy, if they have no number. Others are of the network.
OF_FILES = {OSError, FileNotFoundError, PermissionError}

OF_TENSORFLOW = re.compile(r'\{\{.*?\}\}| \[Op:.*|Collective ops is aborted by: ')
# Lines before TensorFlow's reason for the failure of a graph, which has been traced elsewhere.
OF_A_GRAPH = re.compile(r'^(Graph execution error:|Detected at node .*|[ \t].*)$', re.MULTILINE)


class Failure(Exception):
  """A run that ended early, for a reason that fits into one line."""

  code = exit_codes.FAILED

  def __init__(self, message: str, code: int | None = None):
    """Takes the line, and the exit code if it is not that of the class."""
    super().__init__(message)
    self.code = self.code if code is None else code


def explained(error: Exception) -> Failure | None:
  """Returns an error as a Failure, or None if it is a defect of the program."""
  if isinstance(error, Failure):
    return error
  if isinstance(error, app.UsageError):
    return Failure(str(error), exit_codes.BAD_INPUT)
  if isinstance(error, files.Unavailable):
    cause = error.__cause__
    if isinstance(cause, OSError) and (cause.filename or cause.errno in MAKE_ROOM):  # of a disk
      return _of_the_system(cause)
    return Failure(f'{first_line(error)}; {RESUME}', exit_codes.NO_STORE)
  if isinstance(error, MemoryError):
    return Failure('out of memory; pass a smaller --global_batch_size, or free some')
  if isinstance(error, OSError):
    return _of_the_system(error)
  return _of_tensorflow(error)


def first_line(error: BaseException) -> str:
  """Returns the first line of an error's message, or its kind if it has none.

  Without what TensorFlow adds: the names of the operation and of its device, and its place.
  """
  message = str(error)
  if message.startswith('Graph execution error:'):
    message = OF_A_GRAPH.sub('', message)
  lines = OF_TENSORFLOW.sub('', message).strip().splitlines()
  return (lines or [type(error).__name__])[0].strip()


def _of_the_system(error: OSError) -> Failure:
  """Returns an OSError as a Failure that names the file."""
  if error.errno is None and 'No space left' in str(error):  # one of HDF5's
    return Failure(f'{first_line(error)}; make room and {RESUME}')
  if error.errno is None and type(error) in OF_FILES:
    return Failure(first_line(error), exit_codes.BAD_INPUT)
  names = [str(name) for name in (error.filename, error.filename2) if name is not None]
  message = ': '.join(filter(None, [' to '.join(names), error.strerror])) or first_line(error)
  if error.errno in MAKE_ROOM:
    return Failure(f'{message}; make room and {RESUME}')
  if error.errno in USERS:
    return Failure(f'{message}; change that, or pass another path', exit_codes.BAD_INPUT)
  return Failure(f'{message}; {RESUME}')


def _of_tensorflow(error: Exception) -> Failure | None:
  """Returns an error of a TensorFlow operation as a Failure; None for any other exception."""
  tf = sys.modules.get('tensorflow')  # its errors exist only if it is loaded
  if tf is None or not isinstance(error, tf.errors.OpError):
    return None
  message = first_line(error)
  if isinstance(error, (tf.errors.NotFoundError, tf.errors.PermissionDeniedError)):
    return Failure(f'{message}; change that, or pass another path', exit_codes.BAD_INPUT)
  if isinstance(error, tf.errors.DataLossError):
    return Failure(f'{message}; a file is damaged: replace it', exit_codes.BAD_INPUT)
  if isinstance(error, tf.errors.ResourceExhaustedError):
    return Failure(f'{message}; make room on the disk or the device and {RESUME}')
  return Failure(f'{message}; {RESUME}')
