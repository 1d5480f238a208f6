"""Seconds, peak memory, and the machine in words; needs only PyTorch, so both sides of a comparison measure alike.

In: a piece of work. Out: seconds of processor and clock, and the most memory that was held.
On a CPU the peak is that of the whole process since it began, libraries included, so a peak to compare needs a process
of its own; on a GPU it is that of the timed work alone.
"""

import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Result = dict[str, Any]


def timed(work: Callable[[], Any], device: str = "cpu") -> Result:
    """Seconds of processor and clock that the work took, and the peak in bytes: of the process, or of the GPU."""
    gpu = device.startswith("cuda")
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    clock, processor = time.perf_counter(), time.process_time()
    work()
    if gpu:
        torch.cuda.synchronize()
    seconds, wall_seconds = time.process_time() - processor, time.perf_counter() - clock
    peak = torch.cuda.max_memory_allocated() if gpu else peak_bytes()
    return {"seconds": seconds, "wall_seconds": wall_seconds, "peak_bytes": peak}


def peak_bytes() -> int:
    """The most memory that this process held at once.

    From Linux's own books: `getrusage` would give a process the peak of the one that started it, where that is higher.
    """
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise RuntimeError("/proc/self/status names no VmHWM; peak memory is only measured on Linux")
    return int(found[1]) * 1024


def hardware() -> str:
    """The processor, its cores, and what else decides about speed."""
    name = platform.processor() or platform.machine()
    described = Path("/proc/cpuinfo").read_text()
    listed = re.search(r"^model name\s*:\s*(.+)$", described, re.MULTILINE)
    name = listed[1] if listed else name
    units = [word for flag, word in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX-512 for bf16")) if flag in described]
    threads = torch.get_num_threads()
    parts = [
        name + (f" with {' and '.join(units)}" if units else ""),
        f"{os.cpu_count()} cores",
        f"{threads} {'thread' if threads == 1 else 'threads'}",
        allocator(),
    ]
    return ", ".join(parts)


def allocator() -> str:
    """Whose memory allocator is loaded."""
    return Path(os.environ.get("LD_PRELOAD", "")).name.split(".")[0] or "the system's allocator"
