"""Shuts itself in and runs one program; `sandbox.run` starts it as a script, with the standard library alone.

Standard input holds the order: a line of JSON (`sandbox.run` writes it), then the program. Standard output is the
program's; standard error takes reports for `sandbox.run`, one line each: `error REASON`, `status EXIT_CODE`, `time`.

With namespaces the program sees a file system in memory: the interpreter and the libraries of the system, read-only, a
few devices, and a scratch folder at /tmp. There are no processes but its own, and no network. It has no rights of root,
and cannot make namespaces of its own, since it stands below a chroot. What is in memory goes with the last process, and
the last process goes with the first: this script, whose end is also tied to that of its parent.

Without namespaces only limits of resources hold.
"""

import ctypes
import json
import os
import resource
import select
import signal
import sys

_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41}
_MOUNT_SETATTR = 442
_NEW_NAMESPACES = 0x20000 | 0x4000000 | 0x8000000 | 0x20000000 | 0x40000000  # mount, UTS, IPC, PID, network
_NEW_USER = 0x10000000
_BIND, _RECURSIVE, _PRIVATE, _NOSUID, _NODEV = 4096, 16384, 1 << 18, 2, 4
_READ_ONLY, _DETACH, _AT_RECURSIVE, _HERE = 1, 2, 0x8000, -100
_DEATH_SIGNAL, _DUMPABLE, _SUBREAPER, _NO_NEW_PRIVILEGES = 1, 4, 36, 38
# Folders that hold the libraries of a system, and what a program may open of its devices.
_LIBRARIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/nix/store", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
# A user whom nobody else is, where the machine's root can be anyone; else the one that every system has.
_STRANGERS, _NOBODY = 0x60000000, 65534

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _called(name, result):
    """Raises OSError where a function of C has failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount(source, target, kind=None, flags=0, options=None):
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    result = _libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])
    _called(f"mount {target}", result)


def _restrict(path, attributes, flags=0):
    """Add flags to a mount."""
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(wanted))
    arguments = (ctypes.c_int(_HERE), os.fsencode(path), ctypes.c_uint(flags), wanted, size)
    _called(f"mount_setattr {path}", _libc.syscall(ctypes.c_long(_MOUNT_SETATTR), *arguments))


def _stranger():
    """The user and group that a root of many users takes for the program; None where there is only this user."""
    if os.geteuid():
        return None
    with open("/proc/self/uid_map") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    for wanted in (_STRANGERS + os.getpid(), _NOBODY):
        if any(start <= wanted < start + count for start, _, count in ranges):
            return wanted
    return None


def _own_namespaces(stranger):
    """Leave the namespaces of the machine; children alone are in the new one of processes."""
    user, group = os.geteuid(), os.getegid()
    flags = _NEW_NAMESPACES | (_NEW_USER if stranger is None else 0)
    _called("unshare", _libc.unshare(ctypes.c_int(flags)))
    if stranger is None:
        maps = {"setgroups": "deny", "uid_map": f"{_NOBODY} {user} 1", "gid_map": f"{_NOBODY} {group} 1"}
        for name, text in maps.items():
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def _own_file_system(order, stranger):
    """A root in memory, with a jail in it that holds what the interpreter needs."""
    number = _PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(0, f"the number of pivot_root on {os.uname().machine} is not known here")
    _mount(None, "/", flags=_RECURSIVE | _PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    os.chdir("/tmp")
    os.mkdir("old")
    _called("pivot_root", _libc.syscall(ctypes.c_long(number), b".", b"old"))
    os.chdir("/")
    for path in dict.fromkeys((*_LIBRARIES, *order["visible"])):
        _show(path, _READ_ONLY | _NOSUID | _NODEV)
    for path in _DEVICES:
        _show(path, _READ_ONLY | _NOSUID)
    os.makedirs("/jail/tmp", exist_ok=True)
    owner = "" if stranger is None else f",uid={stranger},gid={stranger}"
    options = f"size={order['scratch_bytes']},nr_inodes=1024,mode=700{owner}"
    _mount("tmpfs", "/jail/tmp", "tmpfs", _NOSUID | _NODEV, options)
    _called("umount", _libc.umount2(b"/old", ctypes.c_int(_DETACH)))
    os.rmdir("/old")
    _restrict("/", _READ_ONLY)
    os.chroot("/jail")
    os.chdir("/tmp")


def _show(path, attributes):
    """Make a file or folder of the machine visible in the jail; nothing where there is none, or it can be seen."""
    there, here = f"/old{path}", f"/jail{path}"
    if os.path.lexists(here) or not os.path.lexists(there):
        return
    os.makedirs(os.path.dirname(here), exist_ok=True)
    if os.path.islink(there):
        os.symlink(os.readlink(there), here)
        return
    if os.path.isdir(there):
        os.mkdir(here)
    else:
        os.close(os.open(here, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(there, here, flags=_BIND | _RECURSIVE)
    _restrict(here, attributes, _AT_RECURSIVE if os.path.isdir(here) else 0)


def _die_with_parent(parent):
    """Be killed where the parent ends, or has ended."""
    _called("prctl", _libc.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0))
    if os.getppid() != parent:
        os._exit(1)


def _limit(order):
    limits = {
        resource.RLIMIT_AS: order["memory_bytes"],
        resource.RLIMIT_FSIZE: order["file_bytes"],
        resource.RLIMIT_NOFILE: order["descriptors"],
        resource.RLIMIT_NPROC: order["processes"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
    }
    for name, value in limits.items():
        resource.setrlimit(name, (value, value))
    # The first number ends a process by SIGXCPU, the second by SIGKILL.
    resource.setrlimit(resource.RLIMIT_CPU, (order["cpu_seconds"], order["cpu_seconds"] + 1))


def _hide(descriptor, taken):
    """The same descriptor, inheritable, at a number that nobody can guess."""
    least, most = 100, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 20)
    number = 0
    while number < least or number in taken:
        number = least + int.from_bytes(os.urandom(8), "big") % max(most - least, 16)
    os.dup2(descriptor, number, inheritable=True)
    return number


def _become_the_program(order, source, nothing, stranger):
    """Give up all rights, and run an interpreter with the program in this process's place."""
    reports = os.dup(2)
    try:
        if order["namespaces"] and stranger is not None:
            os.setgroups([])
            os.setresgid(stranger, stranger, stranger)
            os.setresuid(stranger, stranger, stranger)
        _called("prctl", _libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
        program = os.memfd_create("program")
        with open(os.dup(program), "wb") as file:
            file.write(source)
        os.lseek(program, 0, os.SEEK_SET)
        token, end = os.pipe()
        os.write(end, order["token"].encode())
        numbers = []
        for descriptor in (program, token, order["verdict"]):
            numbers.append(_hide(descriptor, numbers))
        os.set_inheritable(order["verdict"], False)
        os.dup2(nothing, 0)
        os.dup2(1, 2)
        _limit(order)
        command = [order["python"], "-sSPB", "-Xutf8", "-c", order["inside"], *map(str, numbers)]
        os.execve(order["python"], command, {"PYTHONHASHSEED": "0"})
    except BaseException as error:
        os.write(reports, f"error {error}\n".encode())
    finally:
        os._exit(1)


def _be_the_first_process(order, source, nothing, stranger, parent_end):
    """Process 1 of its namespace: with it all others end."""
    try:
        _called("prctl", _libc.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0))
        # The parent has no number in here; it holds one end of this pipe while it lives.
        if select.select([parent_end], [], [], 0)[0]:
            os._exit(1)
        _called("prctl", _libc.prctl(_DUMPABLE, 0, 0, 0, 0))
        program = os.fork()
        if not program:
            _become_the_program(order, source, nothing, stranger)
        while True:
            process, status = os.wait()
            if process == program:
                os.write(2, f"status {os.waitstatus_to_exitcode(status)}\n".encode())
                break
    except BaseException as error:
        os.write(2, f"error {error}\n".encode())
    finally:
        os._exit(0)


def _wait(process, seconds):
    """Wait for a child's end so long, and say where it was too long."""
    if not select.select([os.pidfd_open(process)], [], [], seconds)[0]:
        os.write(2, b"time\n")
        os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _end_the_rest():
    """Kill what a program without namespaces has left behind, as far as it was not faster."""
    for _ in range(100):
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            children = [int(number) for number in file.read().split()]
        if not children:
            return
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def main():
    order = json.loads(sys.stdin.buffer.readline())
    source = sys.stdin.buffer.read()
    _die_with_parent(order["parent"])
    os.umask(0o022)
    nothing = os.open("/dev/null", os.O_RDWR)
    if not order["namespaces"]:
        _called("prctl", _libc.prctl(_SUBREAPER, 1, 0, 0, 0))
        program = os.fork()
        if not program:
            _become_the_program(order, source, nothing, None)
        status = _wait(program, order["seconds"])
        os.write(2, f"status {status}\n".encode())
        _end_the_rest()
        return
    stranger = _stranger()
    _own_namespaces(stranger)
    _own_file_system(order, stranger)
    parent_end, own_end = os.pipe()
    first = os.fork()
    if not first:
        os.close(own_end)
        _be_the_first_process(order, source, nothing, stranger, parent_end)
    _wait(first, order["seconds"])


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        os.write(2, f"error {error.strerror or error}\n".encode())
        sys.exit(1)
