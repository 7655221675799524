"""A training of a few steps, for the stand-in of SpecForge."""

from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.train.trainer import recipe, supervise
from sglang_qwen3next_eagle3.train.trainer.supervise import TrainingPlan

STEPS = 12


def plan(out: Path, **training: Any) -> TrainingPlan:
    config = {
        "model": {"target_model_path": "demo"},
        "data": {"hidden_states_path": "features"},
        "training": {"max_steps": STEPS, "save_interval": 5, **training},
        "deployment": {"trainer": {"nproc_per_node": 1}},
        "run_id": "head",
        "output_dir": str(out / supervise.CHECKPOINTS),
    }
    return TrainingPlan(
        recipe.load("demo"), config, {"hidden_size": 8}, "output:3,7,11", "cpu", STEPS
    )
