"""SGLang's releases as the package index has them: unpacked to be read, never installed."""

import subprocess
import sys
import zipfile
from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay.contract import Installed


def unpack(release: str, folder: Path) -> Installed:
    """Have pip download the wheel of one SGLang release, without what it depends on, and unpack it.

    folder: where to; what is under it is the caller's to remove.

    Raises:
        UserError: pip could not get it; the message holds the last line of what it said.
    """
    downloads = folder / f"wheel-{release}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:", "--dest", str(downloads)]
    ended = subprocess.run([*command, f"sglang=={release}"], capture_output=True, text=True)
    wheels = sorted(downloads.glob("*.whl"))
    if ended.returncode != 0 or not wheels:
        said = ended.stderr.strip().splitlines() or ["it said nothing"]
        raise UserError(f"pip could not download sglang=={release}: {said[-1]}")
    root = folder / release
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(root)
    return Installed(release, root)
