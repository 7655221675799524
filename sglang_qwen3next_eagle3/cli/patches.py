"""`patches verify`, `new` and `flags`: the manifests of what the overlay hooks in SGLang, and of
what training relies on in SpecForge."""

import argparse
import difflib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sglang_qwen3next_eagle3.base import files
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay import contract, wheels
from sglang_qwen3next_eagle3.overlay.contract import (
    Installed,
    Part,
    ReleaseManifest,
    Symbol,
    SymbolComparison,
)
from sglang_qwen3next_eagle3.train.trainer import specforge

PARTS: tuple[Part, ...] = (
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
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    verify = verbs.add_parser(
        "verify", help="compare the manifests with the installed SGLang and SpecForge"
    )
    verify.add_argument("--json", action="store_true", help="print JSON for a script")
    verify.add_argument("--all", action="store_true", help="list every symbol and why it is used")
    new = verbs.add_parser(
        "new", help="write a manifest for another installed SGLang release, for review"
    )
    new.add_argument("release", help="the release, as `pip show sglang` names it")
    new.add_argument(
        "--from-index",
        action="store_true",
        help="download the release's wheel, and write what changed in the hooked symbols beside it",
    )
    table = verbs.add_parser(
        "flags", help="write the table of the installed SGLang's flags, by which launches are read"
    )
    for action in (new, table):
        action.add_argument(
            "--out", type=Path, default=Path(), help="folder to write to (default: here)"
        )
    for action in (verify, new):
        action.add_argument(
            "--source",
            type=Path,
            metavar="FOLDER",
            help="an unpacked wheel (the folder that holds sglang/) instead of what is installed",
        )
    verify.add_argument("--release", help="the manifest to compare with (default: the installed)")


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0 all as reviewed, 1 something differs. Raises UserError."""
    if arguments.action == "new":
        return _new(arguments)
    if arguments.action == "flags":
        return _flags(arguments.out)
    installed = _installed(arguments)
    manifest = contract.read_manifest(installed.release)
    findings = contract.compare(manifest, installed.root, PARTS)
    trainer = None if arguments.source or arguments.release else specforge.installed()
    trained_with, trainer_findings = _of_trainer(trainer)
    if arguments.json:
        theirs = trained_with and _as_json(trained_with, trainer_findings)
        print(json.dumps({**_as_json(manifest, findings), "specforge": theirs}, indent=2))
    else:
        show = _print_table if arguments.all else _print_summary
        show("SGLang", manifest, findings)
        if trained_with is not None:
            show("SpecForge", trained_with, trainer_findings)
    return 0 if all(finding.state == "ok" for finding in findings + trainer_findings) else 1


def _of_trainer(
    installed: Installed | None,
) -> tuple[ReleaseManifest | None, list[SymbolComparison]]:
    """SpecForge's manifest and findings, where it is installed: only training needs it."""
    if installed is None:
        return None, []
    manifest = specforge.read_manifest()
    return manifest, contract.compare(manifest, installed.root, ["training"])


def _installed(arguments: argparse.Namespace) -> Installed:
    installed = contract.installed_sglang()
    release: str | None = arguments.release or (installed.release if installed else None)
    if arguments.source is not None:
        if not (arguments.source / "sglang").is_dir():
            raise UserError(f"{arguments.source} holds no folder sglang/: unpack the wheel there")
        if release is None:
            raise UserError("which release is it? name it with --release")
        return Installed(release, arguments.source)
    if installed is None:
        raise UserError("SGLang is not installed: install it, or unpack a wheel and use --source")
    if release != installed.release:
        raise UserError(
            f"SGLang {installed.release} is installed, not {release}: "
            "install that, or unpack its wheel and use --source"
        )
    return installed


def _new(arguments: argparse.Namespace) -> int:
    if not arguments.from_index:
        _write_manifest(_installed(arguments), arguments.out)
        return 0
    if arguments.source is not None:
        raise UserError("--from-index downloads the wheel: leave --source out")
    with tempfile.TemporaryDirectory() as folder:
        theirs = wheels.unpack(arguments.release, Path(folder))
        template = _write_manifest(theirs, arguments.out)
        here = contract.installed_sglang()
        if here is None or here.release != template.release:
            here = wheels.unpack(template.release, Path(folder))
        path = arguments.out / f"sglang-{theirs.release}.changes.md"
        files.write_text(path, "".join(report(template, here, theirs)))
    print(f"{path}: what changed in them since {template.release}")
    return 0


def _write_manifest(installed: Installed, out: Path) -> ReleaseManifest:
    """Write the manifest of a release, and return the one that it was begun from."""
    template = contract.read_manifest(contract.nearest_release(installed.release))
    path = out / f"sglang-{installed.release}.toml"
    if path.exists():
        raise UserError(f"{path} is there already: remove it or choose another folder with --out")
    path.write_text("".join(render(template, installed)), encoding="utf-8")
    compared = contract.compare(template, installed.root, PARTS)
    changed = [finding for finding in compared if finding.state != "ok"]
    print(f"{path}: {len(template.symbols)} symbols, {len(changed)} differ from {template.release}")
    for finding in changed:
        print(f"  review {finding.symbol.target}: {finding.state}")
    return template


def report(template: ReleaseManifest, before: Installed, after: Installed) -> Iterator[str]:
    """In Markdown: each symbol of the template that is another now, with the difference."""
    yield f"# SGLang {after.release} against {before.release}\n\n"
    yield "Symbols that the overlay hooks or leans on, as far as they are others.\n"
    for symbol in template.symbols:
        old = contract.read_source(before.root, symbol.target)
        new = contract.read_source(after.root, symbol.target)
        if old == new:
            continue
        yield f"\n## {symbol.part}: `{symbol.target}` ({symbol.role})\n\n{symbol.why}\n\n"
        if new is None:
            yield f"It is not in {after.release}.\n"
            continue
        lines = ("" if old is None else old).splitlines(), new.splitlines()
        names = before.release, after.release
        difference = difflib.unified_diff(*lines, *names, lineterm="", n=3)
        yield "```diff\n" + "\n".join(difference) + "\n```\n"


def render(template: ReleaseManifest, installed: Installed) -> Iterator[str]:
    """The text of a manifest with the template's symbols as the installed source has them."""
    yield f'release = "{installed.release}"\nreviewed = "not yet: written by `patches new`"\n'
    for symbol in template.symbols:
        found = contract.read_symbol(installed.root, symbol.target)
        if found is None:
            yield f"\n# REVIEW: {symbol.target} is not in this release ({symbol.why})\n"
            continue
        parameters, fingerprint = found
        if (parameters, fingerprint) != (symbol.parameters, symbol.fingerprint):
            yield f"\n# REVIEW: differs from {template.release}"
        yield "\n[[symbol]]\n"
        entry = Symbol(symbol.target, symbol.part, symbol.role, parameters, fingerprint, symbol.why)
        yield from (f"{key} = {json.dumps(value)}\n" for key, value in _fields(entry).items())


def _flags(out: Path) -> int:
    """SGLang itself is asked, so it is imported here, and has to be installed."""
    from sglang_qwen3next_eagle3.overlay import server_flags

    installed = contract.installed_sglang()
    if installed is None:
        raise UserError("SGLang is not installed, and only its own parser knows its flags")
    table = server_flags.table(argparse.ArgumentParser())
    rows = ",\n".join(f"{json.dumps(d)}: {json.dumps(table[d])}" for d in sorted(table))
    path = out / f"sglang-{installed.release}.flags.json"
    files.write_text(path, f"{{\n{rows}\n}}\n")
    print(f"{path}: {len(table)} flags")
    return 0


def _fields(symbol: Symbol) -> dict[str, object]:
    return {
        "target": symbol.target,
        "part": symbol.part,
        "role": symbol.role,
        "parameters": list(symbol.parameters),
        "fingerprint": symbol.fingerprint,
        "why": symbol.why,
    }


def _as_json(manifest: ReleaseManifest, findings: list[SymbolComparison]) -> dict[str, object]:
    symbols = [
        {**_fields(finding.symbol), "state": finding.state, "detail": finding.detail}
        for finding in findings
    ]
    return {"release": manifest.release, "reviewed": manifest.reviewed, "symbols": symbols}


def _print_summary(name: str, manifest: ReleaseManifest, findings: list[SymbolComparison]) -> None:
    """A few lines: how many symbols are as they were reviewed, and those that are not."""
    parts = Counter(finding.symbol.part for finding in findings)
    counted = ", ".join(f"{part} {count}" for part, count in sorted(parts.items()))
    changed = [finding for finding in findings if finding.state != "ok"]
    as_reviewed = f"{len(findings) - len(changed)} of {len(findings)} symbols are as reviewed"
    print(f"{name} {manifest.release}: {as_reviewed} ({counted})")
    for finding in changed:
        print(f"  {finding.symbol.target}: {finding.detail or finding.state}")
    print(f"reviewed: {manifest.reviewed}")


def _print_table(name: str, manifest: ReleaseManifest, findings: list[SymbolComparison]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{name} {manifest.release}", show_lines=True)
    for column in ("part", "symbol", "role", "state", "why"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        symbol, state = finding.symbol, finding.detail or finding.state
        colour = "green" if finding.state == "ok" else "red"
        target = symbol.target.removeprefix("sglang.").replace(":", ":\n")
        table.add_row(symbol.part, target, symbol.role, f"[{colour}]{state}[/]", symbol.why)
    console = Console()
    console.print(table)
    console.print(f"reviewed: {manifest.reviewed}")
