"""A process that waits for another one's devices when that one fails."""

import socket
import subprocess
import sys

PROCESS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from jax.experimental import multihost_utils
from scratchpatch.distributed import last_words, processes

processes.start("127.0.0.1:{port},{process},2")
last_words._GRACE = 0.5
with last_words.told():
    if {process} == 0:
        # As a checkpoint does in the background: it waits for files of the other one.
        ThreadPoolExecutor().submit(processes.gather, lambda: 1, "files")
    multihost_utils.sync_global_devices("before")
    if {process} == {failing}:
        raise OSError(28, "No space left")
    multihost_utils.sync_global_devices("after")
"""


def test_who_waits_in_a_collective_is_ended_with_the_message_of_the_one_that_failed():
    for failing in (0, 1):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        codes = [PROCESS.format(port=port, process=process, failing=failing) for process in range(2)]
        running = [subprocess.Popen([sys.executable, "-c", code], text=True, stderr=subprocess.PIPE) for code in codes]
        said = [p.communicate(timeout=120)[1] for p in running]
        assert [p.returncode for p in running] == [1, 1], said
        assert "OSError: [Errno 28] No space left" in said[failing] and "Traceback" in said[failing]
        wanted = f"scratchpatch: process {failing} failed: OSError: [Errno 28] No space left; its own output says where"
        assert wanted in said[1 - failing].splitlines(), said
