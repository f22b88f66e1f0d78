"""malloc's setting: on, freed large blocks are used again; off or before, they are mapped anew."""

import os
import platform
import subprocess
import sys

import pytest

from featherseg.core.allocator import keep_freed_memory

PAGES_FAULTED = """
import ctypes, resource, sys
from featherseg.core.allocator import keep_freed_memory, large_blocks_returned
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def touch(size=48 << 20):
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
done = keep_freed_memory()
exec(sys.argv[1])
print(done, (faults() - before) * resource.getpagesize())
"""


def faulted(setting, code="touch(); before = faults(); touch()"):
    """-> (what keep_freed_memory said, bytes that a second block of 48 MiB was faulted in with)."""
    environment = {**os.environ, "FEATHERSEG_ALLOCATOR": setting}
    command = [sys.executable, "-c", PAGES_FAULTED, code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    said, amount = done.stdout.split()
    return said == "True", int(amount)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_a_large_block_that_was_freed_is_used_again_unless_the_setting_is_off():
    said, amount = faulted("")
    assert said
    assert amount < 1 << 20
    said, amount = faulted("off")
    assert not said
    assert amount > 40 << 20


@pytest.mark.seconds
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
@pytest.mark.parametrize(("setting", "after"), [("", False), ("off", True)])
def test_large_blocks_are_returned_within_a_block_of_code_and_used_again_behind_it(setting, after):
    _, amount = faulted(
        setting, "with large_blocks_returned(): touch(); before = faults(); touch()"
    )
    assert amount > 40 << 20
    _, amount = faulted(
        setting, "with large_blocks_returned(): touch()\ntouch(); before = faults(); touch()"
    )
    assert (amount > 40 << 20) == after


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_threads_share_one_heap_where_that_is_asked():
    script = """
import ctypes, threading
from featherseg.core.allocator import keep_freed_memory, large_blocks_returned
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
keep_freed_memory(one_heap={})
threads = [threading.Thread(target=libc.malloc, args=(1000,)) for _ in range(4)]
for thread in threads:
    thread.start()
    thread.join()
libc.malloc_stats()
"""
    for one_heap in (True, False):
        command = [sys.executable, "-c", script.format(one_heap)]
        environment = {**os.environ, "FEATHERSEG_ALLOCATOR": ""}
        told = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stderr
        assert (told.count("Arena") == 1) == one_heap


def test_other_systems_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
