"""Where the host's time goes in a cycle: the scheduler's own clock, for `bench cycle`.

phases     which functions of SGLang are which part of a cycle
recording  the folder through which a benchmark says what to record, and what it reads back
recorder   what a scheduler's process keeps: times, the GPU's time in graphs, sampled stacks
hooks      where it looks at SGLang
"""

__all__ = ["hooks", "phases", "recorder", "recording"]
