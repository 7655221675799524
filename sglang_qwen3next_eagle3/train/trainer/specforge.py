"""The SpecForge that is installed beside SGLang: is it there, and is it the one we know?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import data_dir, write_json
from sglang_qwen3next_eagle3.base.schema import first_error
from sglang_qwen3next_eagle3.model.hub import INDEX
from sglang_qwen3next_eagle3.overlay import contract
from sglang_qwen3next_eagle3.overlay.contract import Installed, ReleaseManifest

RELEASE = "0.2.0"
HOW_TO_INSTALL = "`make train-env`, or pip install --no-deps specforge==0.2.0 and accelerate"


def installed() -> Installed | None:
    """The SpecForge that `import specforge` would find, without importing it."""
    return contract.installed_package("specforge")


def read_manifest() -> ReleaseManifest:
    """What we rely on in SpecForge: patches/specforge-RELEASE.toml."""
    path = data_dir("patches") / f"specforge-{RELEASE}.toml"
    return contract.parse_manifest(path.read_text(encoding="utf-8"), path.name)


def require(found: Installed | None = None) -> ReleaseManifest:
    """The manifest, after every symbol in it was found unchanged.

    Raises:
        UserError: SpecForge is not installed, is another release, or a symbol differs.
    """
    found = found or installed()
    if found is None:
        raise UserError(f"SpecForge is not installed: {HOW_TO_INSTALL}")
    if found.release != RELEASE:
        raise UserError(f"SpecForge {found.release} is not supported: {HOW_TO_INSTALL}")
    manifest = read_manifest()
    for finding in contract.compare(manifest, found.root, ["training"]):
        if finding.state != "ok":
            raise UserError(
                f"SpecForge {found.release}: {finding.symbol.target} is not what this package "
                f"relies on ({finding.detail}); reinstall it unmodified: {HOW_TO_INSTALL}"
            )
    return manifest


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse a run config that SpecForge refuses: its schema, and its rules for EAGLE3.

    Raises:
        UserError: the first thing that it says.
    """
    from pydantic import ValidationError
    from specforge.application import resolve_run
    from specforge.config.schema import Config

    try:
        resolve_run(Config.model_validate(dict(config)))
    except ValidationError as error:
        reason = first_error(error)
    except ValueError as error:
        reason = str(error)
    else:
        return
    raise UserError(f"SpecForge refuses the run config: {reason}; see --set and the recipe")


def indexed(target: Path, beside: Path) -> Path:
    """A folder with the target's files and an index of its weights, which SpecForge needs and a
    checkpoint of one file has not: the target itself, or links to it in `beside`."""
    if (target / INDEX).is_file():
        return target
    from safetensors import safe_open

    files = sorted(target.glob("*.safetensors"))
    if not files:
        raise UserError(f"the target {target} has no safetensors files")
    beside.mkdir(parents=True, exist_ok=True)
    weight_map: dict[str, str] = {}
    for path in target.iterdir():
        link = beside / path.name
        if path.is_file():
            link.unlink(missing_ok=True)
            link.symlink_to(path.resolve())
    for path in files:
        with safe_open(path, framework="numpy") as stream:
            weight_map |= dict.fromkeys(stream.keys(), path.name)
    size = sum(path.stat().st_size for path in files)
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    write_json(beside / INDEX, index, indent=1)
    return beside
