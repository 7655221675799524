"""`train capture`: the target's states over prepared conversations, and the folder they are in.

capture              the whole of it; transformers_runner: its second backend
encode               conversations as token ids with a loss mask
features             the folder as others read it; folder: as it is written
"""

from sglang_qwen3next_eagle3.train.capture.capture import (
    SGLANG,
    TRANSFORMERS,
    CaptureOptions,
    capture_features,
)
from sglang_qwen3next_eagle3.train.capture.encode import TrainingSample, load_format, samples_of
from sglang_qwen3next_eagle3.train.capture.features import FeaturesManifest

__all__ = [
    "SGLANG",
    "TRANSFORMERS",
    "CaptureOptions",
    "FeaturesManifest",
    "TrainingSample",
    "capture_features",
    "features",
    "load_format",
    "samples_of",
]
