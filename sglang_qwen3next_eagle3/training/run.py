"""`train run`: train a head with SpecForge by a recipe; start it again and it goes on.

The run folder gets specforge.yaml (the run config), draft.json (the head's config), run.json (what
was trained on what, and when), train.log and checkpoints/.
"""

import argparse
from pathlib import Path

import yaml

from sglang_qwen3next_eagle3 import aux_layers
from sglang_qwen3next_eagle3.errors import UserError
from sglang_qwen3next_eagle3.hub import local_folder
from sglang_qwen3next_eagle3.profile import DEMO
from sglang_qwen3next_eagle3.target import Target
from sglang_qwen3next_eagle3.training import draft, recipe, runconfig, specforge
from sglang_qwen3next_eagle3.training.runconfig import Paths
from sglang_qwen3next_eagle3.training.supervise import CHECKPOINTS, DRAFT, Plan, train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--recipe", required=True, metavar="NAME", help=f"{', '.join(recipe.names())}, or a file")
    add("--target", help="folder, hub name or `demo`; default: the recipe's")
    add("--features", type=Path, metavar="DIR", help="what `train capture` wrote")
    add("--eval-features", type=Path, metavar="DIR", help="the same of the held-out conversations")
    add("--vocab", type=Path, metavar="FILE", help="vocab.pt; default: counted from the features")
    add("--out", type=Path, default=Path("run"), metavar="DIR", help="default: %(default)s")
    add("--aux-layers", metavar="SELECTION", help="default: the recipe's")
    add("--allow-gdn-aux", action="store_true", help="let a spelled selection name GDN layers")
    add("--device", choices=("cuda", "cpu"), help="default: cuda if there is one")
    add("--gpus", type=int, metavar="N", help="training processes; default: the recipe's DP")
    add("--set", action="append", default=[], metavar="S.F=V", help="a SpecForge setting")
    add("--online", action="store_true", help="write the disaggregated config instead (see docs)")
    add("--data", type=Path, metavar="FILE", help="with --online: train.jsonl")
    add("--server-url", action="append", metavar="URL", help="with --online: a capture server")
    add("--mooncake", default="127.0.0.1", metavar="HOST", help="with --online (%(default)s)")
    add("--dry-run", action="store_true", help="print SpecForge's run config and stop")


def run(arguments: argparse.Namespace) -> int:
    """Raises UserError for what does not fit together, before anything is loaded."""
    specforge.require()
    plan = make_plan(arguments)
    specforge.check_config(plan.config)
    if arguments.dry_run or arguments.online:
        print(_describe(plan, arguments), end="")
        return 0
    trained = train(plan, arguments.out.absolute(), _device(arguments))
    if trained is not None:
        print(f"trained: {trained}; next: train export --run {arguments.out}")
    return 0


def make_plan(arguments: argparse.Namespace) -> Plan:
    """Everything that is decided before SpecForge starts. Reads small files only.

    Raises:
        UserError: the recipe, the target and the features do not fit together.
    """
    chosen = recipe.load(arguments.recipe)
    name = arguments.target or chosen.target
    folder = _target_if_local(name, arguments.dry_run or arguments.online)
    out = arguments.out.absolute()
    if folder is None:
        # A dry run with a hub name: the target is not there to be asked.
        target, ids, spelled, draft_config = None, [], chosen.aux_layers, None
    else:
        target = Target.from_path(folder)
        resolved = aux_layers.resolve(
            target,
            wanted=arguments.aux_layers or chosen.aux_layers,
            wanted_source="--aux-layers" if arguments.aux_layers else f"recipe {arguments.recipe}",
            allow_gdn=arguments.allow_gdn_aux,
        )
        spelled = str(resolved.selection)
        ids = draft.layer_ids(resolved.selection) or [0, 1, 2]
        draft_config = draft.config(chosen.draft, target, resolved.selection)
        if not arguments.online and arguments.features is not None:
            _check_features(arguments, resolved.selection, target)
    if not (arguments.dry_run or arguments.online) and arguments.features is None:
        raise UserError("nothing to train on: name the folder of `train capture` with --features")
    paths = Paths(
        target=str(folder) if folder else name,
        draft_config=str(out / DRAFT),
        output=str(out / CHECKPOINTS),
        features=str((arguments.features or Path("features")).absolute()),
        eval_features=_absolute(arguments.eval_features),
        vocab_mapping=_absolute(arguments.vocab),
    )
    ids = ids or _card_ids(spelled)
    if arguments.online:
        servers = arguments.server_url or ["http://127.0.0.1:30000"]
        data = str((arguments.data or Path("train.jsonl")).absolute())
        config = runconfig.online(chosen, paths, ids, data, servers, arguments.mooncake)
    else:
        processes = arguments.gpus or (1 if _device(arguments) == "cpu" else chosen.hardware.dp)
        config = runconfig.offline(chosen, paths, ids, processes)
    config = runconfig.override(config, arguments.set)
    return Plan(chosen, config, draft_config, spelled)


def _card_ids(selection: str) -> list[int]:
    """Output ids of a named selection on the full-size target, which a dry run need not load."""
    ids = {
        aux_layers.CARD: [3, 23, 47],
        aux_layers.FORK: [2, 26, 46],
        aux_layers.SGLANG: [1, 23, 44],
    }
    if selection not in ids:
        raise UserError(
            f"auxiliary layers {selection!r}: give the target as a local folder to resolve them"
        )
    return ids[selection]


def _target_if_local(name: str, may_be_absent: bool) -> Path | None:
    if name == DEMO or not may_be_absent:
        return specforge.target_folder(name)
    return local_folder(name)


def _check_features(
    arguments: argparse.Namespace, selection: aux_layers.AuxSelection, target: Target
) -> None:
    """SpecForge compares nothing: features of other layers would train a useless head."""
    from sglang_qwen3next_eagle3.training import features

    for folder in filter(None, (arguments.features, arguments.eval_features)):
        manifest = features.read_manifest(folder)
        features.check_selection(manifest, selection, target)
        if not manifest.complete:
            raise UserError(
                f"the capture in {folder} is not complete: start `train capture` again with the "
                "same arguments, it goes on where it stopped"
            )


def _absolute(path: Path | None) -> str | None:
    if path is None:
        return None
    if not path.exists():
        raise UserError(f"there is no {path}")
    return str(path.absolute())


def _device(arguments: argparse.Namespace) -> str:
    if arguments.device:
        return str(arguments.device)
    if arguments.dry_run or arguments.online:
        return "cuda"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _describe(plan: Plan, arguments: argparse.Namespace) -> str:
    hardware = plan.recipe.hardware
    lines = [
        f"# {plan.recipe.description}",
        f"# auxiliary hidden states: {plan.selection}; draft vocabulary: "
        f"{plan.recipe.draft.vocab_size}; optimizer: AdamW (SpecForge's only one)",
        f"# capture: TP {hardware.tp}, {hardware.dp} at a time, on {hardware.gpus} GPUs; "
        f"conversations: {plan.recipe.data.samples}",
    ]
    if plan.recipe.data.sources:
        lines.append(f"# data: {', '.join(plan.recipe.data.sources)}")
    if arguments.online:
        lines += _around(plan, arguments)
    return "\n".join(lines) + "\n" + yaml.safe_dump(plan.config, sort_keys=False)


def _around(plan: Plan, arguments: argparse.Namespace) -> list[str]:
    """What has to run beside the trainer. SpecForge's capture servers are a patched SGLang 0.5.14
    in an environment of their own; stock SGLang has no such endpoint."""
    ids = " ".join(map(str, plan.config["model"]["aux_hidden_state_layer_ids"]))
    length = plan.config["model"]["sglang_context_length"]
    master = "mooncake_master --enable_http_metadata_server=true --rpc_port=35551"
    server = (
        f"python -m sglang.launch_server --model-path {plan.config['model']['target_model_path']} "
        f"--tp-size {plan.recipe.hardware.tp} --context-length {length} --skip-tokenizer-init "
        "--chunked-prefill-size -1 --attention-backend triton --disable-radix-cache "
        f"--enable-spec-capture --spec-capture-method eagle3 --spec-capture-aux-layer-ids {ids}"
    )
    return [
        "# start first, in this order, and wait for each to be ready:",
        f"#   {master} --http_metadata_server_port=35880   (on {arguments.mooncake})",
        *(f"#   {server} --port {url.rpartition(':')[2]}   ({url})" for url in _urls(plan)),
        "# the servers need SpecForge's spec-capture patch for SGLang 0.5.14; then",
        "#   specforge train --config THIS_FILE",
    ]


def _urls(plan: Plan) -> list[str]:
    return list(plan.config["deployment"]["disaggregated"]["server_urls"])
