"""Exit codes, used mainly by the Kubernetes Job's podFailurePolicy."""

FAILED = 1
BAD_INPUT = 64  # EX_USAGE of sysexits.h: retrying the command cannot help
PREEMPTED = 75  # EX_TEMPFAIL: rerun the command to resume
