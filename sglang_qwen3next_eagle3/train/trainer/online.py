"""Online, disaggregated training: the target's states go from capture servers by way of Mooncake to
the trainer. Nothing is kept on disk, so a full-size run needs no terabytes.

SpecForge's capture servers are a patched SGLang 0.5.14 in an environment of their own; stock SGLang
has no such endpoint. So nothing is started here: the run config is written, and what belongs around
it is printed.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.train.trainer.recipe import Recipe
from sglang_qwen3next_eagle3.train.trainer.runconfig import Paths, base

SERVER = "http://127.0.0.1:30000"
# SpecForge's capture servers need seven slots beyond the longest sample (config/schema.py).
CAPTURE_HEADROOM = 7


def run_config(
    recipe: Recipe,
    paths: Paths,
    layer_ids: Sequence[int],
    data: str,
    servers: Sequence[str],
    mooncake: str,
) -> dict[str, Any]:
    """SpecForge's run config for it.

    data: prepared conversations; servers: URLs; mooncake: host of the Mooncake master.
    """
    config = base(recipe, paths, layer_ids)
    length = config["data"].get("max_length", 2048)
    config["data"]["train_data_path"] = data
    config["data"]["chat_template"] = "qwen"
    config["training"].pop("eval_interval", None)
    config["training"]["role"] = "auto"
    config["model"]["sglang_attention_backend"] = "triton"
    config["model"]["sglang_context_length"] = length + CAPTURE_HEADROOM
    config["deployment"] = {
        "mode": "disaggregated",
        "trainer": {"nnodes": 1, "nproc_per_node": recipe.hardware.dp},
        "disaggregated": {
            "control_dir": str(Path(paths.output) / "control"),
            "backend": "mooncake",
            "server_urls": list(servers),
            "mooncake_metadata_server": f"http://{mooncake}:35880/metadata",
            "mooncake_master_server_addr": f"{mooncake}:35551",
        },
    }
    return config


def around(config: Mapping[str, Any], tp: int, path: Path) -> list[str]:
    """What has to run beside the trainer, as lines for people.

    config: made by `run_config`; tp: ranks of a capture server; path: where the config is.
    """
    model, deployment = config["model"], config["deployment"]["disaggregated"]
    metadata, master = (
        deployment["mooncake_metadata_server"], deployment["mooncake_master_server_addr"],
    )  # fmt: skip
    ids = " ".join(map(str, model["aux_hidden_state_layer_ids"]))
    server = (
        f"python -m sglang.launch_server --model-path {model['target_model_path']} "
        f"--tp-size {tp} --context-length {model['sglang_context_length']} "
        "--skip-tokenizer-init --chunked-prefill-size -1 --attention-backend triton "
        "--disable-radix-cache --enable-spec-capture --spec-capture-method eagle3 "
        f"--spec-capture-aux-layer-ids {ids}"
    )
    return [
        "start in this order, each when the one before is ready (the servers need SpecForge's",
        "spec-capture patch for SGLang 0.5.14, in an environment of their own, with this package",
        "where the last layer's output is captured, which SGLang alone cannot):",
        "  mooncake_master --enable_http_metadata_server=true "
        f"--rpc_port={master.rpartition(':')[2]} --http_metadata_server_port="
        f"{metadata.rpartition(':')[2].partition('/')[0]}",
        *(f"  {server} --port {url.rpartition(':')[2]}" for url in deployment["server_urls"]),
        f"  {Path(sys.executable).name} -m specforge.cli train --config {path}",
    ]
