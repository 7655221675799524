"""From conversations to a served head, a step of `train` each: `data` (prepare), `draft_vocabulary`
(vocab), `capture`, `trainer` (run), `export` and `evaluate`. Each takes options as a dataclass;
`cli/train.py` makes them of the command line."""

__all__ = ["capture", "data", "draft_vocabulary", "evaluate", "export", "trainer"]
