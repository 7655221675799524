"""From conversations to a served head: prepare (data), vocab (draft_vocabulary), capture, run
(trainer), export, evaluate. Each takes options as a dataclass; `cli/train.py` makes them of the
command line."""

__all__ = ["capture", "data", "draft_vocabulary", "evaluate", "export", "trainer"]
