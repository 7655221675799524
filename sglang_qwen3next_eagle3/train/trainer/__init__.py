"""`train run`: SpecForge, told what to train on what, watched, and let go on.

run          the whole of it, from its options
recipe       what a user writes; runconfig: what SpecForge reads
specforge    the SpecForge that is installed
supervise    starts it and watches it; runlog: what it prints
cpu_trainer  the process in which it trains without a GPU
"""

from sglang_qwen3next_eagle3.train.trainer.run import TrainOptions, describe, make_plan, train_head
from sglang_qwen3next_eagle3.train.trainer.supervise import TrainingOutcome, TrainingPlan

__all__ = [
    "TrainOptions",
    "TrainingOutcome",
    "TrainingPlan",
    "describe",
    "make_plan",
    "recipe",
    "specforge",
    "train_head",
]
