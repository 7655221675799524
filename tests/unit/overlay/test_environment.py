"""The variables by which the plugin is told what to do: all that are read are known."""

import re
from pathlib import Path

import sglang_qwen3next_eagle3
from sglang_qwen3next_eagle3.overlay import environment


def test_every_name_that_the_code_says_is_known_and_no_other() -> None:
    package = Path(sglang_qwen3next_eagle3.__file__).parent
    said: set[str] = set()
    for path in package.rglob("*.py"):
        if path != Path(environment.__file__):
            said |= set(re.findall(rf'"({environment.PREFIX}[A-Z_]+)"', path.read_text("utf-8")))
    own = {value for value in vars(environment).values() if isinstance(value, str)}
    own = {name for name in own if name.startswith(environment.PREFIX)} - {environment.PREFIX}
    keys = set(environment.KEYS.values())
    assert said | own | keys | {f"{name}_FILE" for name in keys} == environment.NAMES
