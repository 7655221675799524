"""What the person at the keyboard can mend, and how the command line ends."""

import os
import signal
import sys
from collections.abc import Callable

USER_ERROR = 2
READER_GONE = 128 + signal.SIGPIPE
"""As a shell reports a program that wrote into a closed pipe."""


class UserError(Exception):
    """Bad input, a missing file or an unsupported installation.

    The message is one line that names the cause and the way out. The command line prints it
    without a traceback and exits with status 2.
    """


def exit_status(verb: Callable[[], int]) -> int:
    """Run a verb; its status, or that of what ended it."""
    try:
        status = verb()
        # Now, not while Python ends, where nobody could answer for it.
        if sys.stdout is not None:  # closed by the shell
            sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except BrokenPipeError:
        # Who read our output (`head`, a pager that was left) wants no more of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    return status
