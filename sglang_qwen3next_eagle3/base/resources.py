"""Where the data of the project is: `launch/`, `patches/` and what lies in `benchmarks/`."""

from collections.abc import Callable
from pathlib import Path


def data_dir(name: str) -> Path:
    """The folder `name` as installed from the wheel, else as it stands in a checkout.

    Raises:
        FileNotFoundError: the installation is broken; no place has it.
    """
    return _find(name, Path.is_dir)


def data_file(name: str) -> Path:
    """The same for a file of `benchmarks/`."""
    return _find(name, Path.is_file)


def _find(name: str, there: Callable[[Path], bool]) -> Path:
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent
    for candidate in (package / "data" / name, checkout / name, checkout / "benchmarks" / name):
        if there(candidate):
            return candidate
    raise FileNotFoundError(f"{name!r} is not part of this installation: reinstall it")
