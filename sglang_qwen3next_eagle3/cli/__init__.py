"""The command line: one module a verb, with `add_arguments` and `run`."""

__all__ = ["arguments", "bench", "chat", "demo", "doctor", "head", "launch", "patches", "train"]
