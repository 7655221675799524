"""The host's work between the graphs of a cycle, made less: same results, fewer launches and waits.

seams      which of them, as one environment variable spells them
proved     where they are ours without being asked for; sizes: what recorded cycles take
broadcasts which turns need none; agreement: told to all ranks through shared memory
host       what SGLang's host code calls things, by releases
launches   small clusters of eager operations as one launch each, and which batches they are for;
           chains: the same within recordings; kernels, chain_kernels: the launches
recording  what a function launches, as graphs; joining: as parts of one
cycles     a whole cycle of a plain batch, recorded; plain: of what it can be; plans: one of them;
           ready: what it launches, compiled beforehand
hooks      where they stand in SGLang
"""

__all__ = [
    "agreement",
    "cycles",
    "hooks",
    "host",
    "kernels",
    "proved",
    "recording",
    "seams",
    "sizes",
]
