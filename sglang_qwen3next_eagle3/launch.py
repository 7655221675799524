"""`python -m sglang_qwen3next_eagle3.launch --profile b1`: a profile becomes a running SGLang.

The launcher checks what would otherwise fail silently, prints what it decided, and replaces itself
by SGLang's own server. Flags after `--` go to SGLang untouched and win.
"""

import sys
from collections.abc import Sequence

from sglang_qwen3next_eagle3.base.errors import Replacement, exit_status
from sglang_qwen3next_eagle3.base.secrets import hide_in_process_list
from sglang_qwen3next_eagle3.cli import launch
from sglang_qwen3next_eagle3.cli.arguments import Parser


def main(argv: Sequence[str] | None = None) -> int:
    hide_in_process_list()
    return exit_status(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int | Replacement:
    parser = Parser(
        prog="python -m sglang_qwen3next_eagle3.launch", description=__doc__, allow_abbrev=False
    )
    launch.add_arguments(parser)
    return launch.run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
