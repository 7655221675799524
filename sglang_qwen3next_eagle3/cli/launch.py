"""`launch`: a profile becomes a running SGLang.

It checks what would otherwise fail silently, prints what it decided, and is replaced by SGLang's
own server. Flags after `--` go to SGLang untouched and win.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_qwen3next_eagle3.base.errors import Replacement, UserError
from sglang_qwen3next_eagle3.base.redact import HIDDEN, masked, without_secrets
from sglang_qwen3next_eagle3.cli.arguments import add_sglang_flags, folder
from sglang_qwen3next_eagle3.overlay import environment as variables

if TYPE_CHECKING:
    from sglang_qwen3next_eagle3.serving.command_line import Launch
    from sglang_qwen3next_eagle3.serving.preflight import Options
    from sglang_qwen3next_eagle3.serving.profile import Profile

PROGRAM = "sglang-qwen3next-eagle3"
SWITCHES = ("fast", "seams")
_KEY, _ADMIN_KEY = variables.KEYS.values()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_serving_arguments(parser)
    parser.add_argument("--list", action="store_true", help="list the profiles")
    parser.add_argument("--dry-run", action="store_true", help="print environment and command only")
    parser.add_argument("--json", action="store_true", help="with --list or --dry-run: print JSON")
    add_sglang_flags(parser, "flags for SGLang, untouched; they win")


def add_serving_arguments(parser: argparse.ArgumentParser) -> None:
    """What is served and how; `chosen` reads them."""
    add_server_arguments(parser)
    _add_clients_arguments(parser)


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """What decides what a server compiles and computes; `chosen` reads these alone, too."""
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
    drafts.add_argument(
        "--adaptive",
        metavar="STATES",
        help="steps of a chain that follow load and acceptance: measured (costs of the GPUs that "
        "are most like these), a name of launch/adaptive as h200-fp8, a .json of `bench plan "
        "--adaptive` or of `bench auto` (its states.json), or off",
    )
    how = parser.add_argument_group("how it computes")
    how.add_argument("--tp", type=int, help="tensor-parallel ranks (GPUs)")
    _add_switch(
        how,
        "fast",
        "STAGES",
        "our own kernels for decoding and verifying few tokens (1, 2 or 4 Hopper GPUs): all of the "
        "target's, or on, require and stages joined by commas, as on,head; by default auto: what "
        "was proved, where it was",
    )
    _add_switch(
        how,
        "seams",
        "SEAMS",
        "what SGLang launches one by one between a cycle's graphs, in few launches: all, or some "
        "joined by commas; by default auto, as --fast",
    )


def _add_switch(group: Any, name: str, which: str, summary: str) -> None:
    """`--NAME`, `--NAME WHICH` and `--no-NAME`: on, what is named, and off."""
    group.add_argument(f"--{name}", nargs="?", const="on", metavar=which, help=summary)
    group.add_argument(
        f"--no-{name}", dest=name, action="store_const", const="off", help=f"--{name} off"
    )


def _add_clients_arguments(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how to serve")
    how.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    how.add_argument("--port", type=int, help="to listen on (default: the profile's)")
    how.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help=f"require the key in it from every client (default: ${_KEY}_FILE, or the key ${_KEY})",
    )
    how.add_argument(
        "--admin-api-key-file",
        type=Path,
        metavar="FILE",
        help=f"keep what is for administrators for the key in it (default: ${_ADMIN_KEY}_FILE)",
    )
    how.add_argument("--api-key", metavar="KEY", help="the key itself, which `ps` shows to others")
    how.add_argument(
        "--limits",
        metavar="NAME=N,...",
        help="what one request may have at most: body (bytes; default 32Mi), prompt and answer "
        "(tokens), choices (n; 128), depth (brackets of a grammar; 200)",
    )
    how.add_argument(
        "--caches",
        type=folder,
        metavar="FOLDER",
        help="keep and find there what is compiled at a start (`warmup` fills one)",
    )
    how.add_argument("--insecure", action="store_true", help="listen beyond this machine unguarded")
    how.add_argument(
        "--allow-attention-backend",
        action="store_true",
        help="serve with another attention backend than Triton",
    )


def chosen(arguments: argparse.Namespace) -> "tuple[Profile, Options]":
    """The profile with the options in place of its values. Raises UserError."""
    from sglang_qwen3next_eagle3.serving import profile
    from sglang_qwen3next_eagle3.serving.keys import Keys
    from sglang_qwen3next_eagle3.serving.preflight import Options
    from sglang_qwen3next_eagle3.serving.profile import Overrides
    from sglang_qwen3next_eagle3.serving.unused import Said

    given = vars(arguments)

    def of(kind: type[Overrides] | type[Keys] | type[Options]) -> dict[str, Any]:
        return {f.name: given[f.name] for f in fields(kind) if f.name in given}

    overrides = Overrides(**of(Overrides))
    options = Options(
        extra=tuple(arguments.sglang),
        keys=Keys(**of(Keys)),
        said=Said.by(arguments.profile, _said(arguments)),
        **of(Options),
    )
    return overrides.apply(profile.load(arguments.profile)), options


def _said(arguments: argparse.Namespace) -> dict[str, str]:
    """The options in whose place a variable may be set, by the key or the variable."""
    from sglang_qwen3next_eagle3.serving import caches, unused

    keys = {key: _words(arguments, key.replace("-", "_")) for key in unused.KEYS.values()}
    said = {key: " ".join(words) for key, words in keys.items() if words}
    if words := _words(arguments, "limits"):
        said[variables.LIMITS] = " ".join(words)
    if getattr(arguments, "caches", None) is not None:
        said |= dict.fromkeys(caches.environment(arguments.caches), "--caches")
    for flag, name in variables.KEYS.items():
        said |= {name: flag, name + variables.FILE: f"{flag}-file"}
    return said


def _words(arguments: argparse.Namespace, name: str) -> list[str]:
    """One option as it was given; none where it was not."""
    value, flag = getattr(arguments, name, None), name.replace("_", "-")
    if value is True or (name in SWITCHES and value == "on"):
        return [f"--{flag}"]
    if name in SWITCHES and value == "off":
        return [f"--no-{flag}"]
    return [] if value in (None, False) else [f"--{flag}", str(value)]


def spelled(arguments: argparse.Namespace) -> list[str]:
    """The options again with which the same is served, from `--profile` on; no flags of SGLang."""
    from sglang_qwen3next_eagle3.serving.profile import Overrides

    words = ["--profile", arguments.profile]
    for name in (f.name for f in fields(Overrides)):
        words += _words(arguments, name)
    return words


def run(arguments: argparse.Namespace) -> int | Replacement:
    """Print, or what is to be executed. Raises UserError."""
    if arguments.list or arguments.dry_run:
        # Else pydantic looks through every installed package for plugins, a tenth of a dry run's
        # time. Nobody inherits this: nothing is started.
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Not for --help: they bring pydantic.
    from sglang_qwen3next_eagle3.serving import preflight, profile

    if arguments.list:
        return _list(arguments.json)
    if arguments.profile is None:
        names = ", ".join(profile.profile_names())
        raise UserError(f"which profile? --profile NAME, one of {names} (--list explains them)")
    served, options = chosen(arguments)
    if arguments.dry_run:
        _print(preflight.plan(served, options), arguments.json)
        return 0
    launch = preflight.prepare(served, options)
    warnings = _examine(launch, served)
    command = _paste(launch.environment, launch.argv)
    for line in (*launch.notes, *warnings, command, _ask(launch)):
        print(f"{PROGRAM}: {line}", file=sys.stderr, flush=True)
    return Replacement(launch.argv, launch.environment, _importing(launch))


def _importing(launch: "Launch") -> "Callable[[Mapping[str, str]], Mapping[str, str]] | None":
    """What begins the processes that import while the server does."""
    from sglang_qwen3next_eagle3.overlay import standby
    from sglang_qwen3next_eagle3.serving.command_line import imports_beside

    imports = imports_beside(launch)
    return partial(standby.begin, launch.argv[0], imports) if imports else None


def _examine(launch: "Launch", served: "Profile") -> list[str]:
    """What `doctor` would warn of, one line each. Raises UserError: what keeps it from serving."""
    # Not for a dry run, which looks at no machine.
    from sglang_qwen3next_eagle3.serving import doctor

    found = doctor.before_the_launch(launch, served)
    for finding in found:
        if finding.level == "error":
            raise UserError(f"{finding.subject}: {finding}")
    return [f"warning: {finding.subject}: {finding}" for finding in found]


def _ask(launch: "Launch") -> str:
    """How to talk to it, once it is up."""
    from sglang_qwen3next_eagle3.serving.client import DEFAULT_BASE_URL

    url = launch.url
    where = "" if url == DEFAULT_BASE_URL else f" --base-url {url}"
    if launch.wants_key:
        file = launch.environment.get(_KEY + variables.FILE)
        where += f" --api-key-file {shlex.quote(file)}" if file else " --api-key KEY"
    return f"it will answer at {url}; ask it with `{PROGRAM} chat{where} 'What is a heap?'`"


def _list(as_json: bool) -> int:
    from sglang_qwen3next_eagle3.serving import profile

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


def _drafts(p: "Profile") -> str:
    if p.algorithm == "none":
        return "no speculation"
    tree = p.tree
    own = "SGLang's own tree"
    if p.adaptive is not None:
        return f"steps by load and acceptance ({p.adaptive})"
    shape = f"steps {tree.steps}, topk {tree.topk}, draft {tree.draft_tokens}" if tree else own
    return f"MTP, {shape}" if p.algorithm == "nextn" else shape


def _print(launch: "Launch", as_json: bool) -> None:
    if as_json:
        data = {
            "environment": launch.environment,
            "argv": launch.argv,
            "notes": list(launch.notes),
        }
        print(json.dumps(data, indent=2))
        return
    for note in launch.notes:
        print(f"# {note}")
    print(_paste(launch.environment, launch.argv, separator=" \\\n"))


def _paste(environment: Mapping[str, str], argv: list[str], separator: str = " ") -> str:
    """Environment and command as a shell takes them; one flag a line where they are separated.

    In place of a secret stands a variable without which the shell refuses to run it.
    """
    words = []
    for name, value in without_secrets(environment).items():
        words.append(f"{name}={_variable(name) if value == HIDDEN else shlex.quote(value)}")
    groups: list[str] = []
    previous = ""
    for word in masked(argv):
        flag, equals, value = word.partition("=")
        if word == HIDDEN:
            shown = _variable(previous)
        else:
            shown = f"{flag}={_variable(flag)}" if equals and value == HIDDEN else shlex.quote(word)
        if word.startswith("--") or not groups:
            groups.append(shown)
        else:
            groups[-1] += f" {shown}"
        previous = word
    return separator.join([*words, *groups])


def _variable(name: str) -> str:
    """Of the flag or the variable whose value is a secret."""
    known = "SGLANG_API_KEY" if name.startswith("--ap") else name.lstrip("-").replace("-", "_")
    return f'"${{{known.upper() or "SECRET"}:?}}"'
