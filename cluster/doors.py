"""The one dynamic import: modules of the rooms above, by name, for the console's verbs and the doctor's questions."""

import importlib
import sys
from types import ModuleType


class UnusableModule(Exception):
    """A module that cannot be imported here; the message is one line and holds the repair."""


def open_module(name: str) -> ModuleType:
    """The module `name`, imported. Raises UnusableModule where it, or a package that it needs, is absent or broken."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UnusableModule(
            f"{sys.executable} lacks the package {error.name!r}: run `make setup` and use .venv/bin/cxr; "
            "on a cluster, run `ray start` with that environment activated"
        ) from error
    except (ImportError, OSError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnusableModule(
            f"{name} cannot be imported: {first}: a package or a library of the system is broken or absent; "
            "run `make setup`, and `cxr doctor` to see what else is missing"
        ) from error
