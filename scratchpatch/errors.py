"""The one exception that a user's mistake raises."""


class UserError(Exception):
    """Something that the user can fix: names the bad value and the fix.

    The command line prints it as one line and exits with 1; it never shows a
    traceback for it.
    """
