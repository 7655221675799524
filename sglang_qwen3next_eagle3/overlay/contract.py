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
import textwrap
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.resources import data_dir

Part = Literal["capture", "cpu_engine", "prefill", "requests", "simulate", "training"]
Role = Literal["hooked", "relied_on"]
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
class Manifest:
    """The symbols of one SGLang release. reviewed: how far this release was proved, for people."""

    release: str
    reviewed: str
    symbols: tuple[Symbol, ...]

    def of(self, part: Part) -> tuple[Symbol, ...]:
        return tuple(symbol for symbol in self.symbols if symbol.part == part)


@dataclass(frozen=True)
class Finding:
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


def installed_package(name: str) -> Installed | None:
    """The same of another package, whose distribution has its name."""
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
    return tuple(sorted(releases, key=lambda text: [int(n) for n in re.findall(r"\d+", text)]))


def read_manifest(release: str) -> Manifest:
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


def parse_manifest(text: str, name: str) -> Manifest:
    """A manifest from its TOML text; `name` is for the error message."""
    try:
        data = tomllib.loads(text)
        symbols = tuple(_symbol(dict(entry)) for entry in data["symbol"])
        return Manifest(data["release"], data["reviewed"], symbols)
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise UserError(f"patches/{name} is not a manifest: {error}") from None


def _symbol(entry: dict[str, Any]) -> Symbol:
    entry["parameters"] = tuple(entry["parameters"])
    return Symbol(**entry)


def compare(manifest: Manifest, root: Path, parts: Iterable[Part]) -> list[Finding]:
    """Every entry of the given parts against the source under `root` (the folder of `sglang/`)."""
    return [_compare(symbol, root) for part in parts for symbol in manifest.of(part)]


def _compare(symbol: Symbol, root: Path) -> Finding:
    found = read_symbol(root, symbol.target)
    if found is None:
        return Finding(symbol, "missing", "not in this release")
    parameters, fingerprint = found
    if parameters != symbol.parameters:
        here, there = ", ".join(parameters), ", ".join(symbol.parameters)
        return Finding(symbol, "parameters", f"({here}) where ({there}) is expected")
    if fingerprint != symbol.fingerprint:
        return Finding(symbol, "source", f"source {fingerprint}, reviewed was {symbol.fingerprint}")
    return Finding(symbol, "ok")


def require(parts: Sequence[Part], installed: Installed | None = None) -> Manifest:
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
                f"SGLang {installed.release} is supported for serving on GPUs only, its manifest "
                f"has no {part} part: install SGLang 0.5.17"
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

    A name that a module only imports, or a module-level assignment, has no parameters; its
    fingerprint is that of the statement that binds it.
    """
    module, _, qualname = target.partition(":")
    parsed = _parse_module(root, module)
    if parsed is None:
        return None
    source, tree = parsed
    body: Sequence[ast.stmt] = tree.body
    node: ast.stmt | None = None
    for name in qualname.split("."):
        node = _binding(body, name)
        if node is None:
            return None
        body = node.body if isinstance(node, ast.ClassDef) else []
    assert node is not None
    if isinstance(node, ast.ImportFrom):
        text = f"from {'.' * node.level}{node.module or ''} import {qualname}"
        return (), _fingerprint(text)
    parameters = _parameters(node.args) if isinstance(node, _FUNCTIONS) else ()
    return parameters, _fingerprint(_source(source, node))


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@lru_cache(maxsize=64)
def _parse_module(root: Path, module: str) -> tuple[str, ast.Module] | None:
    base = root.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            source = path.read_text(encoding="utf-8")
            return source, ast.parse(source)
    return None


def _binding(body: Sequence[ast.stmt], name: str) -> ast.stmt | None:
    """The last statement in `body` that binds `name`, also inside if and try blocks."""
    found: ast.stmt | None = None
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() if node.name == name:
                found = node
            case ast.ImportFrom() if any((a.asname or a.name) == name for a in node.names):
                found = node
            case ast.Assign(targets=[ast.Name(id=bound)]) if bound == name:
                found = node
            case ast.If() | ast.Try():
                handlers = [s for h in getattr(node, "handlers", []) for s in h.body]
                nested = [*node.body, *handlers, *node.orelse]
                found = _binding(nested, name) or found
    return found


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
    lines = source.splitlines()[first - 1 : node.end_lineno]
    return textwrap.dedent("\n".join(line.rstrip() for line in lines))


def _fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
