"""The scorer's exit codes. The Kubernetes Job's podFailurePolicy acts on them."""

DONE = 0
FAILED = 1  # a worker or a file system failed: rerun with --resume
TOO_MANY_REJECTS = 3  # more than --max_reject_fraction; everything else is written
USAGE = 64  # EX_USAGE of sysexits.h: invalid flags, model, input or output; nothing was written
STOPPED = 75  # EX_TEMPFAIL of sysexits.h: stopped by SIGTERM; rerun with --resume
INTERRUPTED = 130  # stopped by Ctrl-C (SIGINT), as shells say it; rerun with --resume
