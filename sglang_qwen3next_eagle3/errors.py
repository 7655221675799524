"""The one exception for what the person at the keyboard can mend."""


class UserError(Exception):
    """Bad input, a missing file or an unsupported installation.

    The message is one line that names the cause and the way out. The command line prints it
    without a traceback and exits with status 2.
    """
