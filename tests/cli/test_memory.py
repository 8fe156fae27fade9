"""`moee_hf.cli.memory`: in a process of its own, as the heaps of this one are there already."""

import subprocess
import sys

import pytest

from moee_hf.cli import memory

# how many heaps the threads of a process have, one after the other as they run side by side
COUNT = """
import ctypes, runpy, threading

share_one_heap = runpy.run_path({path!r})["share_one_heap"]  # without the package, which imports torch
{call}
barrier = threading.Barrier(4)

def allocate():
    libc.free(libc.malloc(ctypes.c_size_t(1000)))
    barrier.wait()

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.fopen.restype = ctypes.c_void_p
stream = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, stream)
libc.fclose(stream)
"""


def num_heaps(call):
    run = subprocess.run(
        [sys.executable, "-c", COUNT.format(call=call, path=memory.__file__)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return run.stdout.count("<heap nr=")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_threads_share_one_heap():
    assert num_heaps("") > 1
    assert num_heaps("share_one_heap()") == 1
