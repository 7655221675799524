"""Everything that knows SGLang's insides. Nothing outside this package imports `sglang.srt`.

environment   the variables by which a launcher tells the plugin what to do
contract      what is relied on in SGLang, release by release, and whether it still holds
variants      where our code differs from release to release
wheels        releases from the package index, unpacked to be read
hooks         one SGLang symbol and what takes its place
capture       the states that a head is fed with
served_head   the head that this process serves
requests      what a request may ask for, and that speculation does not change what it gets
metrics       figures of a cycle, beside SGLang's own
simulate      acceptance that `bench speed` sets while a server runs
adaptive      how many steps the next cycle drafts
routing       which experts rows reach whose weights are dummies
seams         the host's work between the graphs, made less
fast          our own kernels for passes of few rows
proofs        what is on without being asked for, where it was proved
sources       which code of this package a proof is of
cycle         where the host's time goes in a cycle
standby       processes that import beside the server's first one
cpu_engine    what lets stock SGLang serve without a GPU
prefill       streams of the target for prompts, without a server
server_flags  the flags of the installed SGLang, read off its parser
"""

__all__ = [
    "adaptive",
    "capture",
    "contract",
    "cpu_engine",
    "cycle",
    "environment",
    "fast",
    "hooks",
    "metrics",
    "prefill",
    "proofs",
    "requests",
    "routing",
    "seams",
    "served_head",
    "server_flags",
    "simulate",
    "sources",
    "standby",
    "variants",
    "wheels",
]
