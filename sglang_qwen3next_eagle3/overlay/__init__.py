"""Everything that knows SGLang's insides. Nothing outside this package imports `sglang.srt`."""

__all__ = [
    "capture",
    "contract",
    "cpu_engine",
    "environment",
    "fast",
    "hooks",
    "prefill",
    "requests",
    "served_head",
    "server_flags",
    "simulate",
]
