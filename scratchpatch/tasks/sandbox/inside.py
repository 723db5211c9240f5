"""Runs a program where `sandbox.launch` has shut it in, and proves that it came to its end.

The proof is a token that waits in a pipe, at a descriptor whose number was drawn at random, and goes into another one.
Whoever ends the process early, with whatever exit code, has not written it. The program runs in this very process, so
one that is written against this file can find both descriptors: the token tells programs that end early, not programs
that set out to forge it.
"""

import os
import sys

_TOKEN_BYTES = 64


def main():
    program, token, verdict = map(int, sys.argv[1:])
    with open(program, "rb") as file:
        source = file.read()
    sys.argv[:] = sys.orig_argv[:] = [""]
    os.environ.clear()
    # The program may put its own functions in the place of these.
    read, write, leave = os.read, os.write, os._exit
    try:
        exec(compile(source, "program", "exec"), {"__name__": "program"})
    except BaseException as error:
        _say(error)
        leave(1)
    write(verdict, read(token, _TOKEN_BYTES))
    leave(0)


def _say(error):
    """What went wrong, for the record, if the program has left anything to say it with."""
    try:
        line = " ".join(f"{type(error).__name__}: {error}".split())
        sys.stdout.flush()
        os.write(2, f"\n{line}\n".encode(errors="replace"))
    except BaseException:
        pass


if __name__ == "__main__":
    main()
