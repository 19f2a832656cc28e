"""Ties a process to its parent: ``python leash.py PARENT COMMAND …`` becomes COMMAND and is ended when PARENT dies.

Run as a plain file by ``supervisor``, before every program it starts: code between fork and exec would be the
alternative, and that is not safe in a process with threads. The order to the kernel (SIGTERM then) outlives the exec.
Standard library only. Elsewhere than on Linux there is no such order; the next ``relay up`` stops what is left.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before the order was given
            sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
