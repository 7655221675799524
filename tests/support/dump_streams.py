"""dump_streams.py TARGET OUT SELECTION... --prompt IDS --steps N -- SGLANG FLAGS

Capture each selection in turn on one loaded target and save them with torch.save: selection ->
float32 [streams, T, hidden], and "tokens", the prompt with what was decoded.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sglang_qwen3next_eagle3.model import aux_layers
from sglang_qwen3next_eagle3.overlay import capture
from tests.support.streams import StreamRunner


def main() -> None:
    own, flags = sys.argv[1:], []
    if "--" in own:
        flags = own[own.index("--") + 1 :]
        own = own[: own.index("--")]
    parser = argparse.ArgumentParser()
    parser.add_argument("target", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("selections", nargs="+")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--steps", type=int, required=True)
    arguments = parser.parse_args(own)
    prompt = [int(token) for token in arguments.prompt.split(",")]
    runner = StreamRunner(arguments.target, flags)
    target = capture.target_of(runner.model.config)
    saved = {}
    for text in arguments.selections:
        selection = aux_layers.on_target(text, target, count=None, allow_gdn=True)
        capture.install(runner.model, selection)
        tokens, passes = runner.capture(prompt, arguments.steps)
        saved[text] = torch.cat(passes, dim=1)
        saved["tokens"] = torch.tensor(prompt + tokens)
    torch.save(saved, arguments.out)


if __name__ == "__main__":
    main()
