"""Where the data folders of the project are: `launch/` and `patches/`."""

from pathlib import Path


def data_dir(name: str) -> Path:
    """The folder `name` as installed from the wheel, else as it stands in a checkout.

    Raises:
        FileNotFoundError: the installation is broken; neither place has it.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / "data" / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"data folder {name!r} is not part of this installation: reinstall it")
