"""An action of a verb as a test calls it: what it raises is not turned into an exit status."""

import importlib

from sglang_qwen3next_eagle3.cli.arguments import Parser


def action(verb: str, *words: object) -> int:
    """`sglang-qwen3next-eagle3 VERB ...`; UserError and KeyboardInterrupt come through."""
    module = importlib.import_module(f"sglang_qwen3next_eagle3.cli.{verb}")
    parser = Parser(allow_abbrev=False)
    module.add_arguments(parser)
    status: int = module.run(parser.parse_args([str(word) for word in words]))
    return status
