"""Which archives the demo's corpus is made of: source distributions under permissive licences.

`sources.toml` pins each by version and sha256; nothing here downloads.
"""

import hashlib
import io
import re
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sglang_qwen3next_eagle3.base.errors import UserError

MIN_BYTES, MAX_BYTES = 400, 80_000
LONGEST_MEAN_LINE = 90
SKIPPED = re.compile(
    r"(^|/)(tests?|testing|_?vendor(ed)?(-\w+)?|extern(als?)?|locale|migrations|fixtures|_sass"
    r"|node_modules|third_?party|generated|data|datasets|licen[sc]es?|unicode)(/|$)"
    r"|(^|/)(test_|conftest|_?version|_tables|parsetab|versioneer)|changelog|changes|whatsnew"
    r"|licen[sc]e|authors|requirements|egg-info|thanks|credits",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Source:
    """One archive. file: its name; licence: an SPDX expression."""

    name: str
    version: str
    licence: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Document:
    """A text of the corpus. kind: code (a Python file) or prose (reStructuredText, Markdown)."""

    source: str
    path: str
    kind: str
    text: str


def pinned() -> list[Source]:
    content = tomllib.loads(Path(__file__).with_name("sources.toml").read_text("utf-8"))
    return [Source(**entry) for entry in content["source"]]


def documents(source: Source, folder: Path) -> Iterator[Document]:
    """The texts of an archive that are worth learning from, in the archive's order.

    Raises:
        UserError: the archive is missing or is another one.
    """
    archive = folder / source.file
    if not archive.is_file():
        raise UserError(f"{archive} is missing: download {source.name} {source.version}'s archive")
    with archive.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != source.sha256:
        raise UserError(f"{archive} is not the pinned one: sha256 {digest}, not {source.sha256}")
    for path, content in _members(archive):
        kind = _kind(path)
        if kind is None or not MIN_BYTES <= len(content) <= MAX_BYTES:
            continue
        try:
            text = content.decode("utf-8").replace("\r\n", "\n").expandtabs(4).strip() + "\n"
        except UnicodeDecodeError:
            continue
        if _is_plain(text):
            yield Document(source.name, path, kind, text)


def _kind(path: str) -> str | None:
    inside = PurePosixPath(*PurePosixPath(path).parts[1:])
    if SKIPPED.search(str(inside)):
        return None
    if inside.suffix == ".py":
        return "code"
    is_prose = inside.suffix in (".rst", ".md") or inside.name.endswith(".rst.txt")
    is_django_page = inside.suffix == ".txt" and inside.parts[:1] == ("docs",)
    return "prose" if is_prose or is_django_page else None


def _is_plain(text: str) -> bool:
    """Mostly ASCII and no table of data: what a vocabulary of a few thousand tokens can carry."""
    ascii_share = sum(char.isascii() for char in text) / len(text)
    letters = sum(char.isalpha() or char.isspace() for char in text) / len(text)
    mean_line = len(text) / (text.count("\n") + 1)
    return ascii_share > 0.99 and letters > 0.6 and mean_line < LONGEST_MEAN_LINE


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as unzipped:
            for name in sorted(unzipped.namelist()):
                yield name, unzipped.read(name)
        return
    if archive.suffix == ".deb":
        yield from _deb_members(archive)
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and (stream := tar.extractfile(member)):
                yield member.name, stream.read()


def _deb_members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """A Debian package is an ar archive that holds data.tar.xz."""
    content = archive.read_bytes()
    at = 8
    while at + 60 <= len(content):
        header = content[at : at + 60]
        size = int(header[48:58])
        if header[:8] == b"data.tar":
            data = io.BytesIO(content[at + 60 : at + 60 + size])
            with tarfile.open(fileobj=data) as tar:
                for member in tar:
                    if member.isfile() and (stream := tar.extractfile(member)):
                        yield member.name, stream.read()
        at += 60 + size + size % 2
