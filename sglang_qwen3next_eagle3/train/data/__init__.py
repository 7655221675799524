"""`train prepare`: records of many formats to conversations, mixed, split and written once.

build          the whole of it: what is asked for, what comes out
sources        where records come from; formats: as conversations
decontaminate  which share text with a benchmark
pool, mixing   what may be drawn, and what is
regenerate     the target's own answers instead
workspace      the folder, which is finished or can be started again
"""

from sglang_qwen3next_eagle3.train.data.build import (
    EVAL,
    REPORT,
    TRAIN,
    Preparation,
    prepare,
    summary,
)
from sglang_qwen3next_eagle3.train.data.decontaminate import NGRAM
from sglang_qwen3next_eagle3.train.data.formats import FORMATS
from sglang_qwen3next_eagle3.train.data.regenerate import Settings
from sglang_qwen3next_eagle3.train.data.sources import SPELLING, labelled, parse_source

__all__ = [
    "EVAL",
    "FORMATS",
    "NGRAM",
    "REPORT",
    "SPELLING",
    "TRAIN",
    "Preparation",
    "Settings",
    "labelled",
    "parse_source",
    "prepare",
    "summary",
]
