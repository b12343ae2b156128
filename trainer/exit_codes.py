"""What the trainer's exit status says to whoever started it, a Job's podFailurePolicy above all."""

FAILED = 1
BAD_INPUT = 64  # EX_USAGE of sysexits.h: retrying the same command cannot help
PREEMPTED = 75  # EX_TEMPFAIL: the same command goes on where this one stopped
