"""The command line: one module a verb, with `add_arguments` and `run`."""

__all__ = ["bench", "chat", "demo", "head", "launch", "patches", "train"]
