"""An SGLang plugin for tests: keeps what the draft model reads and puts out, call by call.

`install(folder)` writes it as a distribution with an entry point, so that SGLang finds it in its
scheduler process; $DUMP_DRAFT names the folder that the calls go to, one file each.
"""

import itertools
import os
import shutil
from pathlib import Path
from typing import Any

FOLDER = "DUMP_DRAFT"


def install(folder: Path, calls: Path) -> dict[str, str]:
    """The environment in which SGLang loads the plugin and dumps into `calls`."""
    calls.mkdir(parents=True)
    metadata = folder / "dump_draft-0.dist-info"
    metadata.mkdir(parents=True)
    shutil.copy(__file__, folder / "dump_draft.py")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: dump-draft\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(
        "[sglang.srt.plugins]\ndump_draft = dump_draft:register\n"
    )
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {FOLDER: str(calls), "PYTHONPATH": path}


def register() -> None:
    import torch

    from sglang_qwen3next_eagle3.overlay import hooks

    numbers = itertools.count()
    folder = Path(os.environ[FOLDER])

    def keep(
        original: Any, model: Any, input_ids: Any, positions: Any, forward_batch: Any,
        *rest: Any, **named: Any,
    ) -> Any:  # fmt: skip
        states = forward_batch.spec_info.hidden_states.clone()
        call = {"input_ids": input_ids.clone(), "positions": positions.clone(), "states": states}
        result = original(model, input_ids, positions, forward_batch, *rest, **named)
        call |= {"normed": result[0].clone(), "next": result[1][0].clone()}
        scratch = folder / "scratch"
        torch.save(call, scratch)
        scratch.rename(folder / f"{next(numbers):05}.pt")
        return result

    target = "sglang.srt.models.llama_eagle3:LlamaModel.forward"
    hooks.apply([hooks.Hook(target, keep, "keeps what the draft model does")])
