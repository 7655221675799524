"""Processes that import beside a server's first one, and become those that it starts.

SGLang starts its schedulers and its detokenizer as fresh interpreters, once its first process has
imported SGLang for twenty seconds, and each of them imports the same for as long again. Here the
launcher begins one process for each right before it is replaced by the server. They import, and
wait. Where multiprocessing would start a fresh interpreter in the server, one that waits is handed
what that would have been given: the same bytes, descriptors and words, environment, limits and
signals. They are children of the server from the beginning, for the launcher keeps its process id.

A process that waits can at any time become a fresh interpreter in place, which is what it does if
it finds that it was begun with something else than it is asked for. It ends without a word if
nobody asks for it any more, and with the server. The modules that are imported are those that a
fresh process imports before SGLang has it load plugins, so that hooks find what they find there.

launcher  begins them, and says how many where that is asked for
server    hands over to them what multiprocessing would start a fresh interpreter with
process   what one of them does
handed    all that a fresh interpreter would be given
imported  what came of importing, and whether a fresh interpreter would have imported the same

Nothing here imports more than Python's own library, `base` and the names of variables.
"""

from sglang_qwen3next_eagle3.overlay.standby.launcher import (
    DETOKENIZER,
    RELEASE,
    SCHEDULER,
    Modules,
    begin,
    is_bound,
    parse,
)
from sglang_qwen3next_eagle3.overlay.standby.server import take

__all__ = [
    "DETOKENIZER", "RELEASE", "SCHEDULER", "Modules", "begin", "is_bound", "parse", "take",
]  # fmt: skip
