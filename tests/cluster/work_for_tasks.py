"""What the tests let other processes do: importable there by name, and quickly."""

import os
import signal
import time


def square(value: int) -> tuple[int, int]:
    """The square, and the process that computed it."""
    return value * value, os.getpid()


def square_but_three(value: int) -> int:
    """Refuses 3."""
    if value == 3:
        raise ValueError("there is no 3")
    return value * value


def die_at_three(value: int) -> int:
    """Ends its own process at 3, as the kernel does when memory runs out."""
    if value == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def wait_for_ever(value: int) -> None:
    """Leaves a file named by its process in the folder of CXR_TEST_FOLDER, then sleeps."""
    with open(os.path.join(os.environ["CXR_TEST_FOLDER"], str(os.getpid())), "w") as file:
        file.write(str(value))
    time.sleep(600)


def die_once_at_three(value: int) -> int:
    """Ends its own process the first time that it is given 3, which a file in CXR_TEST_FOLDER then tells."""
    if value == 3:
        mark = os.path.join(os.environ["CXR_TEST_FOLDER"], "died")
        if not os.path.exists(mark):
            with open(mark, "w"):
                os.kill(os.getpid(), signal.SIGKILL)
    return value
