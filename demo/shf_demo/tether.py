"""A child process that cannot outlive the demo, even when the demo is killed with SIGKILL.

Handlers and `finally` do not run on SIGKILL, and twenty orphaned servers would go on eating the reader's
machine. On Linux the kernel itself ends a child whose parent died, when the child asked for it. It is asked
for by the child, not in a `preexec_fn` of the parent: that one runs Python between fork and exec, which may
deadlock in a threaded program.

Two traps. The kernel means the *thread* that started the child: start it from one that lives as long as the
child should. And a parent that died before the child asked is never noticed, hence the comparison
afterwards. Elsewhere than on Linux this does nothing; there only an orderly stop ends the children.

    python -m shf_demo.tether PARENT_PID COMMAND ARGUMENT...
"""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when `parent`, which started it, dies."""
    if sys.platform != "linux":
        return
    import ctypes  # 10 ms that other platforms need not pay

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def tethered(command: list[str]) -> list[str]:
    """The command line that runs `command` tied to the calling process; the pid stays that of the command."""
    return [sys.executable, "-m", "shf_demo.tether", str(os.getpid()), *command]


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606  # the point of this module: become the command
