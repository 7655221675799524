"""The host's work between the graphs of a cycle, made less: same results, fewer launches and waits.

seams      which of them, as one environment variable spells them
proved     where they are ours without being asked for
agreement  whether a turn has requests, told to all ranks through shared memory
host       what SGLang's host code calls things, by releases
recording  what a function launches, as graphs
cycles     a whole cycle of a plain batch, recorded
kernels    small clusters of eager operations as one launch each
hooks      where they stand in SGLang
"""

__all__ = ["agreement", "cycles", "hooks", "host", "kernels", "proved", "recording", "seams"]
