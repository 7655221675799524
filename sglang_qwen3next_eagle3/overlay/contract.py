"""What the overlay relies on in SGLang, release by release, and the check that it still holds.

A manifest (`patches/sglang-RELEASE.toml`) lists every symbol that a hook replaces or leans on, with
its parameters and a fingerprint of its source. The check reads SGLang's source files; it imports
nothing, so it runs in milliseconds, before anything heavy, and on a wheel that is only unpacked.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import re
import sys
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import data_dir

Part = Literal[
    "adaptive",
    "capture",
    "cpu_engine",
    "cycle",
    "fast",
    "metrics",
    "prefill",
    "requests",
    "seams",
    "simulate",
    "training",
]
Role = Literal["hooked", "relied_on"]
DEFAULT_RELEASE = "0.5.17"
"""What `[serve]` installs; every part was run with it."""
SERVED_ON_GPUS = frozenset({"0.5.17"})
"""The releases with which a GPU has run the fast path and the seams."""
_MANIFEST_NAME = re.compile(r"sglang-(?P<release>.+)\.toml")


@dataclass(frozen=True)
class Symbol:
    """One function, method or binding of SGLang as a manifest or an installation has it.

    target: `package.module:Qualified.name`.
    parameters: names in order, `*args` and `**kwargs` with their stars; empty for a binding.
    fingerprint: first 16 hex digits of the SHA-256 of its source, dedented.
    role: "hooked" if the overlay replaces it, "relied_on" if a hook only leans on it.
    """

    target: str
    part: Part
    role: Role
    parameters: tuple[str, ...]
    fingerprint: str
    why: str = ""


@dataclass(frozen=True)
class ReleaseManifest:
    """The symbols of one SGLang release. reviewed: how far this release was proved, for people."""

    release: str
    reviewed: str
    symbols: tuple[Symbol, ...]

    def of(self, part: Part) -> tuple[Symbol, ...]:
        return tuple(symbol for symbol in self.symbols if symbol.part == part)

    def hooked(self, part: Part) -> frozenset[str]:
        """The targets that this release's overlay replaces. Tables of hooks hold those of every
        release; what a release does not need, or has under another name, its manifest leaves out.
        """
        return frozenset(symbol.target for symbol in self.of(part) if symbol.role == "hooked")


@dataclass(frozen=True)
class SymbolComparison:
    """The comparison of one manifest entry with the installed source."""

    symbol: Symbol
    state: Literal["ok", "missing", "parameters", "source"]
    detail: str = ""


@dataclass(frozen=True)
class Installed:
    """A package on this machine: its release and the folder that holds it."""

    release: str
    root: Path


def installed_sglang() -> Installed | None:
    """The SGLang that `import sglang` would find, without importing it; None if there is none."""
    return installed_package("sglang")


def not_on_gpus() -> str | None:
    """A sentence where no GPU has run the fast path and the seams with the installed SGLang."""
    installed = installed_sglang()
    if installed is None or installed.release in SERVED_ON_GPUS:
        return None
    return f"no GPU has run them with SGLang {installed.release} yet"


def installed_package(name: str) -> Installed | None:
    """The same of another package, whose distribution has its name."""
    return _installed_package(name, tuple(sys.path))


# A launch asks ten times, and the whole description of a package is parsed for its version.
@lru_cache(maxsize=8)
def _installed_package(name: str, _path: tuple[str, ...]) -> Installed | None:
    try:
        release = importlib.metadata.version(name)
        spec = importlib.util.find_spec(name)
    except (importlib.metadata.PackageNotFoundError, ModuleNotFoundError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Installed(release, Path(next(iter(spec.submodule_search_locations))).parent)


def known_releases() -> tuple[str, ...]:
    """The SGLang releases that `patches/` has a manifest for, oldest first."""
    names = (_MANIFEST_NAME.fullmatch(path.name) for path in data_dir("patches").iterdir())
    releases = [name["release"] for name in names if name]
    return tuple(sorted(releases, key=_order))


def nearest_release(release: str) -> str:
    """The known release that a manifest for `release` is best begun from; of two that are equally
    far, the older."""
    place = _place(release)
    return min(known_releases(), key=lambda known: abs(_place(known) - place))


def at_least(release: str, other: str) -> bool:
    """Whether `release` is `other` or came after it."""
    return _order(release) >= _order(other)


def _order(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release)]


def _place(release: str) -> int:
    """On a line where a minor release is a thousand patch releases."""
    major, minor, patch = (*_order(release), 0, 0, 0)[:3]
    return (major * 1000 + minor) * 1000 + patch


def read_manifest(release: str) -> ReleaseManifest:
    """The manifest of a release.

    Raises:
        UserError: there is none, or it is not a manifest.
    """
    path = data_dir("patches") / f"sglang-{release}.toml"
    if not path.is_file():
        raise UserError(
            f"SGLang {release} is not supported: install one of {', '.join(known_releases())}"
        )
    return parse_manifest(path.read_text(encoding="utf-8"), path.name)


# A launch asks for the manifest of its release three times, and to parse it is most of a dry run.
@lru_cache(maxsize=8)
def parse_manifest(text: str, name: str) -> ReleaseManifest:
    """A manifest from its TOML text; `name` is for the error message."""
    try:
        data = tomllib.loads(text)
        symbols = tuple(_symbol(dict(entry)) for entry in data["symbol"])
        return ReleaseManifest(data["release"], data["reviewed"], symbols)
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise UserError(f"patches/{name} is not a manifest: {error}") from None


def _symbol(entry: dict[str, Any]) -> Symbol:
    entry["parameters"] = tuple(entry["parameters"])
    return Symbol(**entry)


def compare(manifest: ReleaseManifest, root: Path, parts: Iterable[Part]) -> list[SymbolComparison]:
    """Every entry of the given parts against the source under `root` (the folder of `sglang/`)."""
    return [_compare(symbol, root) for part in parts for symbol in manifest.of(part)]


def _compare(symbol: Symbol, root: Path) -> SymbolComparison:
    found = read_symbol(root, symbol.target)
    if found is None:
        return SymbolComparison(symbol, "missing", "not in this release")
    parameters, fingerprint = found
    if parameters != symbol.parameters:
        here, there = ", ".join(parameters), ", ".join(symbol.parameters)
        return SymbolComparison(symbol, "parameters", f"({here}) where ({there}) is expected")
    if fingerprint != symbol.fingerprint:
        return SymbolComparison(
            symbol, "source", f"source {fingerprint}, reviewed was {symbol.fingerprint}"
        )
    return SymbolComparison(symbol, "ok")


def require(parts: Sequence[Part], installed: Installed | None = None) -> ReleaseManifest:
    """The manifest of the installed SGLang, after every symbol of `parts` was found unchanged.

    Raises:
        UserError: SGLang is not installed or not supported, or a symbol differs; the message names
            the symbol, the installed release and the supported ones.
    """
    installed = installed or installed_sglang()
    supported = ", ".join(known_releases())
    if installed is None:
        raise UserError(
            "SGLang is not installed: pip install 'sglang-qwen3next-eagle3[serve]' "
            f"(supported releases: {supported})"
        )
    manifest = read_manifest(installed.release)
    for part in parts:
        if not manifest.of(part):
            raise UserError(
                f"this package has not been run with SGLang {installed.release} that far, its "
                f"manifest has no {part} part: install SGLang {DEFAULT_RELEASE}"
            )
    for finding in compare(manifest, installed.root, parts):
        if finding.state != "ok":
            raise UserError(
                f"SGLang {installed.release}: {finding.symbol.target} is not what this package "
                f"hooks ({finding.detail}); reinstall an unmodified SGLang "
                f"(supported releases: {supported})"
            )
    return manifest


def read_symbol(root: Path, target: str) -> tuple[tuple[str, ...], str] | None:
    """Parameters and fingerprint of a symbol in the source under `root`, or None.

    A name that a module only imports, or an assignment, has no parameters; its fingerprint is that
    of the statement that binds it. Where several statements bind it, in the branches of an `if` or
    a `try` for example, the fingerprint is of all of them, the parameters those of the last.
    """
    found = _statements(root, target)
    if found is None:
        return None
    last, texts = found
    parameters = _parameters(last.args) if isinstance(last, _FUNCTIONS) else ()
    return parameters, _fingerprint("\n".join(texts))


def read_source(root: Path, target: str) -> str | None:
    """What the fingerprint of a symbol is of, or None where there is none."""
    found = _statements(root, target)
    return None if found is None else "\n".join(found[1])


def _statements(root: Path, target: str) -> tuple[ast.stmt, list[str]] | None:
    """The last statement that binds a symbol, and the text of each that does."""
    module, _, qualname = target.partition(":")
    parsed = _parse_module(root, module)
    if parsed is None:
        return None
    source, tree = parsed
    *classes, name = qualname.split(".")
    bodies: list[Sequence[ast.stmt]] = [tree.body]
    for outer in classes:
        found = [node for body in bodies for node in _bindings(body, outer)]
        bodies = [node.body for node in found if isinstance(node, ast.ClassDef)]
    nodes = [node for body in bodies for node in _bindings(body, name)]
    if not nodes:
        return None
    return nodes[-1], [_text(source, node, name) for node in nodes]


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@lru_cache(maxsize=64)
def _parse_module(root: Path, module: str) -> tuple[str, ast.Module] | None:
    base = root.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            source = path.read_text(encoding="utf-8")
            return source, ast.parse(source)
    return None


def _bindings(body: Sequence[ast.stmt], name: str) -> Iterator[ast.stmt]:
    """The statements in `body` that bind `name`, also inside if, try and with blocks."""
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() if node.name == name:
                yield node
            case ast.ImportFrom() | ast.Import() if _alias(node, name) is not None:
                yield node
            case ast.Assign(targets=targets) if any(_binds(target, name) for target in targets):
                yield node
            case ast.AnnAssign(target=target) | ast.AugAssign(target=target) if _binds(
                target, name
            ):
                yield node
            case ast.If() | ast.Try() | ast.TryStar() | ast.With():
                for block in ("body", "handlers", "orelse", "finalbody"):
                    for inner in getattr(node, block, []):
                        within = inner.body if isinstance(inner, ast.ExceptHandler) else [inner]
                        yield from _bindings(within, name)


def _binds(target: ast.expr, name: str) -> bool:
    if isinstance(target, ast.Tuple | ast.List):
        return any(_binds(element, name) for element in target.elts)
    return isinstance(target, ast.Name) and target.id == name


def _alias(node: ast.ImportFrom | ast.Import, name: str) -> ast.alias | None:
    found = (alias for alias in node.names if (alias.asname or alias.name) == name)
    return next(found, None)


def _text(source: str, node: ast.stmt, name: str) -> str:
    """What the fingerprint is of: the statement's source, or of an import the name's own part."""
    if isinstance(node, ast.ImportFrom | ast.Import):
        alias = _alias(node, name)
        assert alias is not None
        renamed = f" as {name}" if alias.asname and alias.asname != alias.name else ""
        origin = ""
        if isinstance(node, ast.ImportFrom):
            origin = f"from {'.' * node.level}{node.module or ''} "
        return f"{origin}import {alias.name}{renamed}"
    return _source(source, node)


def _parameters(arguments: ast.arguments) -> tuple[str, ...]:
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    if arguments.vararg:
        names.append(f"*{arguments.vararg.arg}")
    names += [a.arg for a in arguments.kwonlyargs]
    if arguments.kwarg:
        names.append(f"**{arguments.kwarg.arg}")
    return tuple(names)


def _source(source: str, node: ast.stmt) -> str:
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(d.lineno for d in decorators)])
    # Not splitlines: a form feed ends no line of Python.
    lines = source.split("\n")[first - 1 : node.end_lineno]
    return textwrap.dedent("\n".join(line.rstrip() for line in lines))


def _fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
