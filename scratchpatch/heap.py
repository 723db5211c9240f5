"""Memory in large pages for the programs that XLA runs on a CPU. This file does not import JAX.

XLA asks for the temporary arrays of a program anew at each call, and gives them back after it. Where the system hands
out such memory in its small pages, and zeroes each of them by itself, a train step of a small model spends a third of
its time there. The C library of GNU asks for large pages if the environment says so when a process starts.
"""

import os
import platform
import sys
from pathlib import Path

from scratchpatch import platforms

# What a user says of the same things.
_NAMES = ("GLIBC_TUNABLES", "MALLOC_")
_TUNABLES = "glibc.malloc.hugetlb=1"
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_large_pages() -> None:
    """Start this program again, in the same process, with an environment that asks for large pages.

    It is left alone where the system gives none or gives them to all, on machines with an accelerator, whose programs
    have their arrays there, where the C library is another one, and where the user has told it something.
    """
    told = any(name.startswith(_NAMES) for name in os.environ)
    if told or platforms.accelerator() or platform.libc_ver()[0] != "glibc" or not _on_request():
        return
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"GLIBC_TUNABLES": _TUNABLES})


def _on_request() -> bool:
    try:
        return "[madvise]" in _SETTING.read_text()
    except OSError:
        return False
