"""The command line: `scratchpatch VERB --flag=value ...`.

A UserError while flags are read is wrong usage (exit 2); one from a verb at work is a failure (exit 1). Both print one
line and no traceback; any other exception is a defect and keeps its traceback.
"""

import contextlib
import difflib
import os
import sys
import traceback

from absl import flags

from scratchpatch import background, config as config_lib, config_flags, output
from scratchpatch.errors import UserError
from scratchpatch.verbs import VERBS
from scratchpatch.verbs.verb import Answer, Verb

# What a required flag takes, where it is no folder.
_KINDS = {"config": "FILE", "text": "FILE", "source": "SPEC"}
DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130

EXIT_CODES = """exit codes:
  0  done
  1  failed: one line on standard error says why
  2  wrong usage: one line on standard error says what and names the nearest right one
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command line (without the program's name; None: this process's own) and return its exit code."""
    output.log_to_stderr()
    code = DONE
    try:
        with output.to_anywhere():
            code = _dispatch(sys.argv[1:] if argv is None else argv)
        return code
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except OSError as error:
        # Standard output cannot be written, or its reader left (`| head`). Python would complain once more when it
        # flushes at exit: give it somewhere to write.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code == FAILED or isinstance(error, BrokenPipeError):
            return FAILED
        return _complain(f"standard output cannot be written: {error.strerror}", FAILED)


def script() -> int:
    """`main` as a program of its own, which ends at once, whatever its threads are at."""
    try:
        code = main()
    except Exception:  # Python itself would wait for the threads first.
        traceback.print_exc()
        code = FAILED
    background.leave(code)
    return code


def _dispatch(argv: list[str]) -> int:
    if not argv:
        print(_help(), file=sys.stderr)
        return WRONG_USAGE
    name, arguments = argv[0], argv[1:]
    if name in ("--help", "-h", "help"):
        print(_help())
        return DONE
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=1, cutoff=0.0)[0]
        return _complain(f"no verb {name!r}; the nearest is {near!r} (verbs: {', '.join(VERBS)})", WRONG_USAGE)
    verb = VERBS[name]
    if {"--help", "-h", "--helpfull"} & set(arguments):
        print(_verb_help(verb))
        return DONE
    see = f"(see scratchpatch {name} --help)"
    try:
        values = _parse(verb, arguments)
    except flags.IllegalFlagValueError as error:
        return _complain(config_flags.explain(error), WRONG_USAGE)
    except OSError as error:
        return _complain(f"{error.filename or 'the working directory'}: {error.strerror} {see}", WRONG_USAGE)
    except (UserError, flags.Error, UnicodeError) as error:
        return _complain(f"{error} {see}", WRONG_USAGE)
    except RecursionError:
        return _complain(f"a flag's value is nested too deep {see}", WRONG_USAGE)
    try:
        answer = Answer()
        with contextlib.redirect_stdout(sys.stderr):
            code = verb.run(values, answer)
        answer.end()
        return code or DONE
    except UserError as error:
        return _complain(str(error), FAILED)
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        return _complain(reason if error.filename is None else f"{error.filename}: {reason}", FAILED)
    except MemoryError as error:
        size = f" ({error})" if str(error) else ""
        fault = f"this machine's memory does not suffice{size}: a smaller batch, window or model needs less"
        return _complain(fault, FAILED)
    except RecursionError as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return _complain(f"something that was read is nested too deep ({last.filename}:{last.lineno})", FAILED)


def _parse(verb: Verb, arguments: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    argv = values.read_flags_from_files([verb.name, *arguments], force_gnu=True)
    verb.define(values)
    if verb.config:
        config_flags.define(values, argv)
    positional = values(argv)[1:]
    if len(positional) > len(verb.positional):
        raise UserError(f"{positional[len(verb.positional)]!r} is not a flag: write --NAME=VALUE")
    for flag, value in zip(verb.positional, positional, strict=False):
        values[flag].parse(value)
    for flag in verb.required:
        if values[flag].value in (None, ""):
            raise UserError(f"{verb.name} needs --{flag}={_KINDS.get(flag, 'DIR')}")
    if verb.config and values.config is not None:
        config_lib.check(values.config)
    verb.check(values)
    return values


def _help() -> str:
    width = max(map(len, VERBS))
    lines = ["Byte-level language models with scratchpad patching.", ""]
    lines += ["usage: scratchpatch VERB [--FLAG=VALUE]...", ""]
    lines += ["verbs:", *(f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items()), ""]
    lines += ["examples:", *(verb.help()[1].partition("\n")[0] for verb in VERBS.values()), ""]
    return "\n".join([*lines, EXIT_CODES, "scratchpatch VERB --help tells all about one verb."])


def _verb_help(verb: Verb) -> str:
    values = flags.FlagValues()
    verb.define(values)
    if verb.config:
        config_flags.define(values, [verb.name])
    before, examples = verb.help()
    lines = [before, "", "flags:"]
    for flag in sorted(values, key=lambda flag: (flag not in verb.required, flag)):
        default = values[flag].default
        default = "required" if flag in verb.required else f"default: {'none' if default in (None, []) else default}"
        lines += [f"  --{flag}  ({default})", f"      {' '.join(values[flag].help.split())}"]
    lines += ["", "examples:", examples, "", EXIT_CODES]
    if verb.config:
        lines += ["fields of a config, with their defaults (--config.FIELD=VALUE overrides one):"]
        lines += [config_lib.describe()]
    return "\n".join(lines).rstrip()


def _complain(message: str, code: int) -> int:
    print("scratchpatch: " + output.one_line(message), file=sys.stderr)
    return code
