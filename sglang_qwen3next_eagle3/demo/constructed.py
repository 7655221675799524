"""A Qwen3-Next target and an EAGLE3 head that need no download: built by script, then cached.

Both have the architecture of the real ones and a few million parameters, and the target accepts
a good part of what the head drafts. The text is that of corpus.txt, put together anew: enough to
see a server, a profile or a client at work, and of no other use.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.errors import UserError

MANIFEST = "SHA256SUMS.json"
SOURCES = (
    "constructed.py",
    "corpus.txt",
    "head_weights.py",
    "recipe.py",
    "target_weights.py",
    "tokenizer.py",
)


@dataclass(frozen=True)
class DemoPair:
    """Folders of the two checkpoints, as `--model-path` and
    `--speculative-draft-model-path` take them."""

    target: Path
    head: Path


def demo_pair(cache_dir: Path | None = None) -> DemoPair:
    """The demo pair, built on first use (seconds) and checked against its manifest after that.

    Args:
        cache_dir: the folder to keep it under; by default the user's cache folder.

    Raises:
        UserError: the folder cannot be written to.
    """
    parent = default_cache_dir() if cache_dir is None else cache_dir
    folder = parent / f"demo-{recipe_hash()}"
    try:
        if not is_intact(folder):
            parent.mkdir(parents=True, exist_ok=True)
            _build_beside(folder)
    except OSError as error:
        raise UserError(
            f"cannot keep the demo models in {parent}: {error}; set XDG_CACHE_HOME to a folder"
            " that can be written to"
        ) from error
    return DemoPair(target=folder / "target", head=folder / "head")


def location(cache_dir: Path | None = None) -> DemoPair:
    """Where `demo_pair` keeps the pair, whether it is built or not."""
    parent = default_cache_dir() if cache_dir is None else cache_dir
    folder = parent / f"demo-{recipe_hash()}"
    return DemoPair(target=folder / "target", head=folder / "head")


def default_cache_dir() -> Path:
    """$XDG_CACHE_HOME or ~/.cache, and the product's folder in it."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "sglang-qwen3next-eagle3"


def recipe_hash() -> str:
    """Changes with every file that has a say in the bytes."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update(files(__package__).joinpath(name).read_bytes())
    return digest.hexdigest()[:12]


def is_intact(folder: Path) -> bool:
    """Whether every file that the manifest names is there with its sha256."""
    try:
        manifest: dict[str, str] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return bool(manifest) and all(
            _sha256(folder / name) == digest for name, digest in manifest.items()
        )
    except (OSError, ValueError, AttributeError):
        return False


def build(folder: Path) -> DemoPair:
    """Write both checkpoints and, last, the manifest into an existing empty folder."""
    from safetensors.numpy import save_file

    from sglang_qwen3next_eagle3.demo import head_weights, recipe, target_weights, tokenizer

    pair = DemoPair(target=folder / "target", head=folder / "head")
    pair.target.mkdir()
    pair.head.mkdir()
    content = tokenizer.build_tokenizer()
    bpe = tokenizer.load_tokenizer(content)
    special = {token: bpe.token_to_id(token) for token in tokenizer.SPECIAL_TOKENS}
    samples = recipe.texts(lambda text: bpe.encode(text).ids)
    counts = Counter(token for ids, start in samples for token in ids[start:])
    lexicon = recipe.lexicon(samples)
    draft = head_weights.draft_ids(counts, sorted(special.values()))

    _write_json(pair.target / "config.json", target_weights.config(special))
    _write_json(pair.target / "generation_config.json", target_weights.generation_config(special))
    _write_json(pair.target / "tokenizer.json", content)
    _write_json(pair.target / "tokenizer_config.json", tokenizer.tokenizer_config(recipe.CONTEXT))
    _write_json(pair.head / "config.json", head_weights.config(special))
    for path, tensors in (
        (pair.target, target_weights.tensors(lexicon)),
        (pair.head, head_weights.tensors(lexicon, draft)),
    ):
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        (path / "model.safetensors").chmod(0o644)
    written = sorted(path for path in folder.rglob("*") if path.is_file())
    _write_json(
        folder / MANIFEST,
        {path.relative_to(folder).as_posix(): _sha256(path) for path in written},
    )
    return pair


def _build_beside(folder: Path) -> None:
    """Build in a scratch folder and move it into place in one step. Of two processes that build
    at once, the later one finds the other's folder and keeps it."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        build(scratch)
        scratch.chmod(0o755)
        for _ in range(3):
            try:
                scratch.rename(folder)
                return
            except OSError:
                if is_intact(folder):
                    return
                _set_aside(folder)
        raise OSError(f"{folder} is in the way and cannot be replaced")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _set_aside(folder: Path) -> None:
    """Move a damaged folder away before deleting it: nobody sees it half deleted."""
    if not folder.exists():
        return
    grave = Path(tempfile.mkdtemp(prefix=".old-", dir=folder.parent))
    try:
        folder.rename(grave / folder.name)
    except FileNotFoundError:
        pass  # another process was faster
    finally:
        shutil.rmtree(grave, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", newline="\n")
