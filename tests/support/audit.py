"""`make audit`: which packages that are pinned, for any release of SGLang, have known
vulnerabilities, as pip-audit finds them out.

pip-audit ends well where its service knows none of the packages, which is what a mirror without
advisories looks like. Exit status: 0 all were looked up and none is known to be vulnerable, 1 some
are, 2 some could not be looked up.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def pinned() -> list[Path]:
    """The default release's constraints first, then those of every other one."""
    return [ROOT / "constraints.txt", *sorted(ROOT.glob("constraints-*.txt"))]


def report(found: list[dict[str, Any]]) -> tuple[list[str], int]:
    """Lines to print, and the exit status. found: pip-audit's `dependencies`."""
    lines = []
    skipped = [one["name"] for one in found if "skip_reason" in one]
    vulnerable = [one for one in found if one.get("vulns")]
    for one in vulnerable:
        for known in one["vulns"]:
            mended = ", ".join(known.get("fix_versions", [])) or "no release yet"
            lines.append(f"{one['name']} {one['version']}: {known['id']}, mended in {mended}")
    looked_up = len(found) - len(skipped)
    lines.append(f"{looked_up} of {len(found)} packages looked up, {len(vulnerable)} vulnerable")
    if skipped:
        named = ", ".join(skipped[:5]) + (" and others" if len(skipped) > 5 else "")
        lines.append(f"not looked up: {named}: the advisory service did not know them")
    return lines, 1 if vulnerable else 2 if skipped or not found else 0


def command(pip_audit: str, constraints: Path) -> list[str]:
    """Each file is asked about alone: two of them pin one package differently."""
    words = [pip_audit, "--requirement", str(constraints), "--no-deps", "--disable-pip"]
    return [*words, "--format", "json", "--progress-spinner", "off"]


def audit(pip_audit: str, constraints: Path) -> int:
    """The exit status for one file, of which everything is printed."""
    done = subprocess.run(command(pip_audit, constraints), capture_output=True, text=True)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        print(
            f"{constraints.name}: the advisory service cannot be asked: {said[-1][:300]}",
            file=sys.stderr,
        )
        return 2
    lines, status = report(found)
    print("\n".join(f"{constraints.name}: {line}" for line in lines))
    return status


def main(pip_audit: str) -> int:
    """Of all files: what is vulnerable counts before what could not be looked up."""
    found = {audit(pip_audit, constraints) for constraints in pinned()}
    return next(status for status in (1, 2, 0) if status in found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
