"""`python -m sglang_qwen3next_eagle3.launch --profile b1`: a profile becomes a running SGLang.

The launcher checks what would otherwise fail silently, prints what it decided, and replaces itself
by SGLang's own server. Flags after `--` go to SGLang untouched and win.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

from sglang_qwen3next_eagle3.base.errors import UserError, exit_status
from sglang_qwen3next_eagle3.base.redact import masked
from sglang_qwen3next_eagle3.serving import preflight, profile
from sglang_qwen3next_eagle3.serving.preflight import Launch
from sglang_qwen3next_eagle3.serving.profile import MTP_TREE, Algorithm, Profile, Tree


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to serve")
    what.add_argument("--profile", metavar="NAME", help="a profile, or a .yaml file of your own")
    what.add_argument("--target", help="checkpoint folder or hub name instead of the profile's")
    what.add_argument("--head", help="EAGLE3 head: folder or hub name instead of the profile's")
    what.add_argument("--revision", help="revision of the target on the hub (commit, tag, branch)")
    what.add_argument("--head-revision", help="revision of the head on the hub")
    what.add_argument(
        "--aux-layers",
        metavar="SELECTION",
        help="auxiliary hidden states: card, fork, sglang, output:3,23,47, input:3,output:23,47",
    )
    what.add_argument("--allow-gdn-aux", action="store_true", help="let them name GDN layers")
    drafts = parser.add_argument_group("speculation instead of the profile's")
    drafts.add_argument(
        "--no-speculation", action="store_true", help="nothing drafts: the baseline"
    )
    drafts.add_argument(
        "--mtp",
        action="store_true",
        help="the target's own MTP layer drafts, without a head (tree 3,1,4)",
    )
    drafts.add_argument(
        "--tree", metavar="S,K,D", help="steps, topk and draft tokens of the tree, as 3,4,8"
    )
    how = parser.add_argument_group("how to serve")
    how.add_argument("--tp", type=int, help="tensor-parallel ranks (GPUs)")
    how.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    how.add_argument("--port", type=int)
    how.add_argument("--api-key", help="require this key from every client")
    how.add_argument("--insecure", action="store_true", help="listen beyond this machine unguarded")
    how.add_argument(
        "--allow-attention-backend",
        action="store_true",
        help="serve with another attention backend than Triton",
    )
    parser.add_argument("--list", action="store_true", help="list the profiles")
    parser.add_argument("--dry-run", action="store_true", help="print environment and command only")
    parser.add_argument("--json", action="store_true", help="with --list or --dry-run: print JSON")
    parser.add_argument(
        "sglang", nargs="*", metavar="-- FLAGS", help="flags for SGLang, untouched; they win"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print or exec. Raises UserError."""
    if arguments.list:
        return _list(arguments.json)
    if arguments.profile is None:
        names = ", ".join(profile.profile_names())
        raise UserError(f"which profile? --profile NAME, one of {names} (--list explains them)")
    chosen = _override(profile.load(arguments.profile), arguments)
    options = preflight.Options(
        extra=tuple(arguments.sglang),
        insecure=arguments.insecure,
        allow_attention_backend=arguments.allow_attention_backend,
    )
    if arguments.dry_run:
        _print(preflight.plan(chosen, options), arguments.json)
        return 0
    return _execute(preflight.prepare(chosen, options))


def _execute(launch: Launch) -> NoReturn:
    for note in launch.notes:
        print(f"sglang-qwen3next-eagle3: {note}", file=sys.stderr)
    print(
        f"sglang-qwen3next-eagle3: {_paste(replace(launch, argv=masked(launch.argv)))}",
        file=sys.stderr,
        flush=True,
    )
    os.execvpe(launch.argv[0], launch.argv, {**os.environ, **launch.environment})


def _override(chosen: Profile, arguments: argparse.Namespace) -> Profile:
    # A revision belongs to the checkpoint it was pinned for.
    moved = {
        name: None
        for name, option in (("target-revision", "target"), ("head-revision", "head"))
        if getattr(arguments, option) is not None
    }
    if moved:
        fields = {name.replace("-", "_"): value for name, value in moved.items()}
        chosen = chosen.model_copy(update=fields)
    algorithm, tree = _speculation(chosen, arguments)
    return chosen.override(
        target=arguments.target,
        algorithm=algorithm,
        tree=tree,
        head=arguments.head,
        target_revision=arguments.revision,
        head_revision=arguments.head_revision,
        aux_layers=arguments.aux_layers,
        allow_gdn_aux=arguments.allow_gdn_aux or None,
        sglang={
            "tp": arguments.tp,
            "host": arguments.host,
            "port": arguments.port,
            "api-key": arguments.api_key,
        },
    )


def _speculation(
    chosen: Profile, arguments: argparse.Namespace
) -> tuple[Algorithm | None, Tree | None]:
    """What the options say of it; None leaves the profile's."""
    if arguments.no_speculation and arguments.mtp:
        raise UserError("--no-speculation and --mtp contradict each other: pass one of them")
    tree = None if arguments.tree is None else Tree.parse(arguments.tree)
    if arguments.no_speculation:
        return "none", tree
    if arguments.mtp:
        # A profile that says nextn has chosen for itself.
        return "nextn", tree or (None if chosen.algorithm == "nextn" else MTP_TREE)
    return None, tree


def _list(as_json: bool) -> int:
    profiles = {name: profile.load(name) for name in profile.profile_names()}
    if as_json:
        data = {name: p.model_dump(by_alias=True) for name, p in profiles.items()}
        print(json.dumps(data, indent=2))
        return 0
    width = max(map(len, profiles))
    for name, p in profiles.items():
        about = f"{p.hardware}; {p.target}; {_drafts(p)}; port {p.sglang.get('port')}"
        print(f"{name:{width}}  {p.description}")
        print(f"{'':{width}}  {about}")
    return 0


def _drafts(p: Profile) -> str:
    if p.algorithm == "none":
        return "no speculation"
    tree = p.tree
    own = "SGLang's own tree"
    shape = f"steps {tree.steps}, topk {tree.topk}, draft {tree.draft_tokens}" if tree else own
    return f"MTP, {shape}" if p.algorithm == "nextn" else shape


def _print(launch: Launch, as_json: bool) -> None:
    if as_json:
        data = {"environment": launch.environment, "argv": launch.argv, "notes": launch.notes}
        print(json.dumps(data, indent=2))
        return
    for note in launch.notes:
        print(f"# {note}")
    print(_paste(launch, separator=" \\\n"))


def _paste(launch: Launch, separator: str = " ") -> str:
    """Environment and command as a shell takes them; one flag a line where they are separated."""
    words = [f"{name}={shlex.quote(value)}" for name, value in launch.environment.items()]
    head, flags = launch.argv[:3], launch.argv[3:]
    groups = [shlex.join(head)]
    for word in flags:
        if word.startswith("--"):
            groups.append(shlex.quote(word))
        else:
            groups[-1] += f" {shlex.quote(word)}"
    return separator.join([*words, *groups])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sglang_qwen3next_eagle3.launch", description=__doc__, allow_abbrev=False
    )
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    return exit_status(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
