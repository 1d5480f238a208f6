"""Processes to be killed, from a server without threads: the copy of a process that has threads may wait for ever."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any


def start(function: Callable[..., Any], *arguments: object) -> BaseProcess:
    """Starts a function of a test module in a process of its own, in milliseconds from the second time on."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    process = context.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process
