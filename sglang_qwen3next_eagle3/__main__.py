"""`sglang-qwen3next-eagle3 VERB`, also `python -m sglang_qwen3next_eagle3 VERB`."""

import importlib
import sys
from collections.abc import Sequence

from sglang_qwen3next_eagle3 import __version__
from sglang_qwen3next_eagle3.base.errors import Replacement, exit_status
from sglang_qwen3next_eagle3.base.secrets import hide_in_process_list
from sglang_qwen3next_eagle3.cli.arguments import Parser

# Verb, module (imported only when it is called for), what it does.
VERBS = {
    "launch": ("cli.launch", "start SGLang with a profile"),
    "doctor": ("cli.doctor", "what stands in the way of serving, and what memory allows"),
    "warmup": ("cli.warmup", "compile what a profile's server compiles, and keep it in a folder"),
    "demo": ("cli.demo", "serve the small pair on this machine's CPU and ask it a question"),
    "chat": ("cli.chat", "ask a running server, with the figures of the answer"),
    "train": ("cli.train", "make a head: prepare, vocab, capture, run, export, evaluate"),
    "head": ("cli.head", "what a head is, and which layers it was trained with"),
    "bench": ("cli.bench", "measure speed and acceptance, reproduce the card's tables, plan trees"),
    "patches": ("cli.patches", "what is hooked in SGLang, and whether it still holds"),
}


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    hide_in_process_list()
    # Parsing too: it imports the verb, which takes seconds in which Ctrl-C may come.
    return exit_status(lambda: _run(words))


def _run(words: list[str]) -> int | Replacement:
    parser = Parser(prog="sglang-qwen3next-eagle3", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, (module, summary) in VERBS.items():
        sub = verbs.add_parser(verb, help=summary, description=summary, allow_abbrev=False)
        if words[:1] == [verb]:
            importlib.import_module(f"{__package__}.{module}").add_arguments(sub)
    parser.set_defaults(words=words)
    arguments = parser.parse_args(words)
    called = importlib.import_module(f"{__package__}.{VERBS[arguments.verb][0]}")
    result: int | Replacement = called.run(arguments)
    return result


if __name__ == "__main__":
    sys.exit(main())
