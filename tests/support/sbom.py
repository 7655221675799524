"""`make sbom`: what a list of packages holds; fails for one that lacks what is served with."""

import json
import sys
from pathlib import Path
from typing import Any

NEEDED = ("sglang", "torch", "transformers", "sglang-qwen3next-eagle3")


def missing(bom: dict[str, Any]) -> list[str]:
    """The packages without which nothing is served, as far as the list does not name them with a
    version. bom: as CycloneDX writes it in JSON."""
    named = {
        one["name"].lower().replace("_", "-")
        for one in bom.get("components", [])
        if one.get("version")
    }
    return [name for name in NEEDED if name not in named]


def main(path: str) -> int:
    bom = json.loads(Path(path).read_text(encoding="utf-8"))
    lacks = missing(bom)
    print(f"{path}: {len(bom.get('components', []))} packages, CycloneDX {bom['specVersion']}")
    if lacks:
        print(f"not among them: {', '.join(lacks)}", file=sys.stderr)
    return 1 if lacks else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
