"""The trainer's exit codes. The Kubernetes Job's podFailurePolicy acts on them."""

FAILED = 1  # trying again may help, as after a full disk
BAD_INPUT = 64  # EX_USAGE of sysexits.h: the same command would end in the same way
LOST_HOST = 68  # EX_NOHOST: another host died, left or was cut off
NO_STORE = 69  # EX_UNAVAILABLE: Cloud Storage is not responding
NON_FINITE = 70  # EX_SOFTWARE: the loss became NaN or infinite, and would do so again
PREEMPTED = 75  # EX_TEMPFAIL: stopped by SIGTERM; rerun the command to resume
INTERRUPTED = 130  # 128 + SIGINT, as shells have it; rerun the command to resume
