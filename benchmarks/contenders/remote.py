"""Rivals in a process of their own.

TensorFlow and PyTorch each bring an LLVM, and one process cannot hold both. So what needs PyTorch
is an object in a second process. `Remote` starts that process and calls the object there, and
`serve` answers the calls. Both ends exchange pickles through pipes. No class of either library is
in them.
"""

import os
import pathlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

FOLDER = pathlib.Path(__file__).resolve().parent.parent  # where modules can be imported
# MONAI would load TensorFlow.
START = """
import runpy, sys
sys.modules["tensorflow"] = None
runpy.run_module("{}", run_name="__main__")
"""


class Failure(RuntimeError):
    """A call failed in the other process. The message is one line."""


class Remote:
    """An object in another process. A method is called as if it were here.

    Args:
        module: Module of the benchmarks that serves the object when it runs.
        **arguments: Keyword arguments that make the object there.

    Raises:
        Failure: The object could not be made.
    """

    def __init__(self, module: str, **arguments: Any):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = [sys.executable, "-c", START.format(module)]
        self._process = subprocess.Popen(command, cwd=FOLDER, **pipes)
        try:
            self._ask(arguments)
        except Failure:
            self.close()
            raise

    def __getattr__(self, name: str) -> Callable:
        if name.startswith("_"):  # pickling and copying look for such names
            raise AttributeError(name)
        return lambda *arguments: self._ask((name, arguments))

    def close(self) -> None:
        """End the other process."""
        self._process.communicate()

    def _ask(self, message):
        try:
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()
            is_answer, value = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError):
            raise Failure("the process ended") from None
        if not is_answer:
            raise Failure(value)
        return value


def serve(make: Callable) -> None:
    """Make an object of the arguments that come in, and answer calls until the other end closes.

    Args:
        make: Function of keyword arguments that returns the object.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    made = None
    while True:
        try:
            message = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            if made is None:
                made, value = make(**message), None
            else:
                name, arguments = message
                value = getattr(made, name)(*arguments)
            answer = True, value
        except Exception as error:  # whatever it is, the other end decides what it means
            reason, *_ = (*str(error).strip().splitlines(), "")
            answer = False, f"{type(error).__name__}: {reason}"
        pickle.dump(answer, answers)
        answers.flush()
