"""The one exception that a user's mistake raises, and how other errors are said in one line."""


class UserError(Exception):
    """Something that the user can fix: names the bad value and the fix. The command line prints it as one line."""


def first_line(error: BaseException) -> str:
    """An error of any library as one line of at most 300 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
