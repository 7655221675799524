"""`sglang-qwen3next-eagle3 train`: from conversations to a served head, one step an action."""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.cli.arguments import (
    Action,
    add_actions,
    add_key_options,
    add_sglang_flags,
    key_of,
    options_of,
)
from sglang_qwen3next_eagle3.cli.arguments import defaults as defaults_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_actions(parser, ACTIONS)


def run(arguments: argparse.Namespace) -> int:
    """Raises UserError, and KeyboardInterrupt where the same command goes on."""
    return int(arguments.call(arguments))


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    from sglang_qwen3next_eagle3.serving.client import DEFAULT_BASE_URL
    from sglang_qwen3next_eagle3.train import data

    defaults = defaults_of(data.Preparation)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"""
SOURCE is spelled {data.SPELLING}:
  a JSON array, JSONL (either gzipped or not) or Parquet file, or a hub name for `datasets`.
  weight    share of the conversations drawn, against the other sources' (default 1)
  format    {", ".join(data.FORMATS)}; told from the first record that is of any by default
  config, split, revision   of a hub name; split is `train` by default
Without --samples everything is taken; with weights, as many as keep to the shares until the first
source runs out. With --samples a source that runs out is drawn whole and the others fill up.

Duplicates are conversations with equal roles and texts but for white space (with --regenerate,
without the answers); the first one read stays. The same question with another answer is none, but
a first question is never in both {data.TRAIN} and {data.EVAL}. While it runs, the folder needs
scratch space for the text of all sources.
"""
    add = parser.add_argument
    add("--source", action="append", required=True, metavar="SOURCE", help="see below; repeatable")
    add("--out", type=Path, required=True, metavar="DIR", help="new folder, or the same again")
    add("--samples", type=int, metavar="N", help="conversations to draw, evaluation included")
    held = parser.add_mutually_exclusive_group()
    held.add_argument("--eval-samples", type=int, metavar="N", help=f"of these, for {data.EVAL}")
    held.add_argument(
        "--eval-fraction", type=float, metavar="F", help=f"default: {defaults['evaluation']}"
    )
    add("--seed", type=int, default=defaults["seed"], help="default: %(default)s")
    add(
        "--exclude", action="append", type=Path, default=[], metavar="FILE",
        help=f"JSONL of a benchmark (prompt, turns or messages): leave out conversations with "
        f"{data.NGRAM} words in a row of it; repeatable",
    )  # fmt: skip
    add(
        "--min-answer-chars", type=int, default=defaults["min_answer_chars"], metavar="N",
        help="shorter answers, all of a conversation together, are left out (default: %(default)s)",
    )  # fmt: skip
    add("--json", action="store_true", help=f"print {data.REPORT} instead of a summary")
    again = parser.add_argument_group("regeneration")
    again.add_argument(
        "--regenerate", action="store_true", help="replace the answers by those of a served target"
    )
    chosen = defaults_of(data.Settings)
    again.add_argument("--base-url", metavar="URL", help=f"default: {DEFAULT_BASE_URL}")
    again.add_argument("--model", metavar="M", help="default: the one that is served")
    add_key_options(again)
    for name, kind in (
        ("concurrency", int), ("max-tokens", int), ("temperature", float), ("retries", int),
        ("timeout", float),
    ):  # fmt: skip
        unit = " (seconds)" if name == "timeout" else ""
        default = chosen[name.replace("-", "_")]
        again.add_argument(f"--{name}", type=kind, metavar="N", help=f"default: {default}{unit}")


def _prepare(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.train import data

    plan = _preparation(arguments)
    with _going_on("from here"):
        report = data.prepare(plan)
    if arguments.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print("\n".join(data.summary(plan.out, report)))
    return 0


def _preparation(arguments: argparse.Namespace) -> Any:
    """Raises UserError for values that do not fit."""
    from sglang_qwen3next_eagle3.base.errors import UserError
    from sglang_qwen3next_eagle3.serving.client import DEFAULT_BASE_URL
    from sglang_qwen3next_eagle3.train import data

    settings = {
        name: getattr(arguments, name)
        for name in (*(one.name for one in fields(data.Settings)), "api_key_file")
        if getattr(arguments, name) is not None
    }
    if settings and not arguments.regenerate:
        option = next(iter(settings)).replace("_", "-")
        raise UserError(f"--{option} goes with --regenerate")
    least = {
        "samples": 1, "eval_samples": 0, "min_answer_chars": 0, "concurrency": 1, "max_tokens": 1,
        "temperature": 0, "retries": 0,
    }  # fmt: skip
    for name, bound in least.items():
        value = getattr(arguments, name)
        if value is not None and not value >= bound:
            raise UserError(f"--{name.replace('_', '-')} {value}: at least {bound} is needed")
    if arguments.timeout is not None and not arguments.timeout > 0:
        raise UserError(f"--timeout {arguments.timeout}: a time above 0 is needed")
    fraction = arguments.eval_fraction
    if fraction is not None and not 0 <= fraction < 1:
        raise UserError(f"--eval-fraction {fraction}: a number from 0 to below 1 is needed")
    held = fraction if arguments.eval_samples is None else arguments.eval_samples
    again = None
    if arguments.regenerate:
        settings.pop("api_key_file", None)
        key = key_of(arguments)
        again = data.Settings(**{"base_url": DEFAULT_BASE_URL, **settings, "api_key": key})
    return data.Preparation(
        sources=tuple(data.labelled([data.parse_source(text) for text in arguments.source])),
        out=arguments.out,
        samples=arguments.samples,
        evaluation=data.Preparation.evaluation if held is None else held,
        seed=arguments.seed,
        min_answer_chars=arguments.min_answer_chars,
        excludes=tuple(arguments.exclude),
        regenerate=again,
    )


def _vocab_arguments(parser: argparse.ArgumentParser) -> None:
    from sglang_qwen3next_eagle3.train.draft_vocabulary import VocabularyOptions

    defaults, add = defaults_of(VocabularyOptions), parser.add_argument
    add("--data", type=Path, required=True, help="train.jsonl of `train prepare`")
    add("--target", required=True, help="folder, hub name or `demo`")
    add("--out", type=Path, required=True, help="folder for vocab.pt, vocab.json")
    for name in ("size", "max_length"):
        flag = f"--{name.replace('_', '-')}"
        add(flag, type=int, default=defaults[name], help="default: %(default)s")
    add("--json", action="store_true", help="print JSON for a script")


def _vocab(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.train.draft_vocabulary import MAPPING, VocabularyOptions, make

    chosen, report = make(options_of(VocabularyOptions, arguments))
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        print(
            f"{arguments.out / MAPPING}: {len(chosen.tokens)} of {chosen.target_size} tokens "
            f"cover {chosen.coverage:.2%} of {chosen.total} answer tokens in "
            f"{report['conversations']} conversations"
        )
        if isinstance(gone := report["left_out"], dict) and gone:
            print(f"left out: {', '.join(f'{count} {why}' for why, count in gone.items())}")
    if chosen.coverage < 0.95:
        print(
            f"warning: {1 - chosen.coverage:.1%} of the answers' tokens can never be drafted; "
            "a larger --size accepts more",
            file=sys.stderr,
        )
    return 0


def _capture_arguments(parser: argparse.ArgumentParser) -> None:
    from sglang_qwen3next_eagle3.train.capture import SGLANG, TRANSFORMERS, CaptureOptions

    defaults = defaults_of(CaptureOptions)
    what = parser.add_argument_group("what to capture")
    what.add_argument("--data", type=Path, required=True, help="train.jsonl of `train prepare`")
    what.add_argument("--target", required=True, help="folder, hub name or `demo`")
    what.add_argument("--out", type=Path, required=True, help="folder for the features")
    what.add_argument(
        "--aux-layers",
        metavar="SELECTION",
        help="three streams: card (default), fork, sglang, output:3,23,47, input:3,output:23,47",
    )
    what.add_argument("--allow-gdn-aux", action="store_true", help="let them name GDN layers")
    what.add_argument(
        "--max-length",
        type=int,
        default=defaults["max_length"],
        help="tokens (default: %(default)s)",
    )
    what.add_argument("--max-samples", type=int, metavar="N", help="the first N conversations only")
    how = parser.add_argument_group("how to capture")
    how.add_argument(
        "--backend",
        choices=(SGLANG, TRANSFORMERS),
        default=defaults["backend"],
        help="what computes the states (default: %(default)s)",
    )
    how.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    how.add_argument("--dtype", help="to compute in (default: float32 on cpu, else the target's)")
    how.add_argument("--tp", type=int, default=defaults["tp"], help="tensor-parallel ranks (GPUs)")
    how.add_argument(
        "--shard",
        type=_shard,
        default=defaults["shard"],
        metavar="I/N",
        help="the I-th of N parts, from 0",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for a script")
    add_sglang_flags(parser, "flags for SGLang; they win")


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r}: 0/4, 1/4, 2/4 or 3/4, for example")
    return int(index), int(count)


def _capture(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.train.capture import CaptureOptions, capture_features

    started = time.monotonic()
    with _going_on("from here"):
        manifest = capture_features(options_of(CaptureOptions, arguments))
    if arguments.json:
        report = {**manifest.as_json(), "folder": str(arguments.out)}
        print(json.dumps({**report, "seconds": round(time.monotonic() - started, 1)}, indent=2))
    else:
        state = "complete" if manifest.complete else "other shards are still to be captured"
        print(
            f"{arguments.out}: {manifest.samples_done} of {manifest.samples} samples, "
            f"{manifest.tokens_done} tokens, auxiliary layers {manifest.spelled()}: {state}"
        )
    return 0


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    from sglang_qwen3next_eagle3.train.trainer import TrainOptions, recipe

    defaults = defaults_of(TrainOptions)
    what = parser.add_argument_group("what to train").add_argument
    names = ", ".join(recipe.names())
    what("--recipe", required=True, metavar="NAME", help=f"{names}, or a file")
    what("--target", help="folder, hub name or `demo`; default: the recipe's")
    what("--features", type=Path, metavar="DIR", help="what `train capture` wrote")
    what("--eval-features", type=Path, metavar="DIR", help="the same of held-out conversations")
    what("--vocab", type=Path, metavar="FILE", help="vocab.pt of `train vocab`")
    what("--out", type=Path, default=defaults["out"], metavar="DIR", help="default: %(default)s")
    what("--aux-layers", metavar="SELECTION", help="default: the recipe's")
    what("--allow-gdn-aux", action="store_true", help="let a spelled selection name GDN layers")
    what(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="S.F=V",
        help="a SpecForge setting",
    )
    how = parser.add_argument_group("how").add_argument
    how("--device", choices=("cuda", "cpu"), help="default: cuda if there is one")
    how("--gpus", type=int, metavar="N", help="training processes; default: the recipe's DP")
    how("--dry-run", action="store_true", help="print SpecForge's run config and stop")
    how("--json", action="store_true", help="print JSON for a script")


def _run(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.train import trainer

    options = options_of(trainer.TrainOptions, arguments)
    if options.dry_run:
        plan = trainer.make_plan(options)
        print(
            json.dumps(plan.config, indent=2) if arguments.json else trainer.describe(plan), end=""
        )
        return 0
    with _going_on(f"from the last checkpoint in {arguments.out.absolute()}"):
        outcome = trainer.train_head(options)
    if arguments.json:
        summary = {key: outcome.record.get(key) for key in ("finished", "seconds", "metrics")}
        print(json.dumps({"checkpoint": str(outcome.checkpoint), **summary}, indent=2))
    else:
        state = "trained" if outcome.trained else "nothing to do, trained before"
        print(f"{state}: {outcome.checkpoint}; next: train export --run {arguments.out}")
    return 0


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--run", type=Path, required=True, metavar="DIR", help="the folder of `train run`")
    add("--out", type=Path, required=True, metavar="DIR", help="a new folder for the head")
    add(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="default: the newest; RUN/checkpoints/head-best did best on the held-out features",
    )
    add("--target", help="folder, hub name or `demo`; default: the run's")
    add("--json", action="store_true", help="print JSON for a script")


def _export(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.train.export import export

    made = export(
        arguments.run, arguments.out, checkpoint=arguments.checkpoint, target=arguments.target
    )
    if arguments.json:
        print(json.dumps(asdict(made), indent=2))
    else:
        unfinished = "" if made.finished else " of a run that is not finished"
        print(
            f"{made.head}: {made.bytes / 2**20:.1f} MiB, auxiliary layers {made.aux_layers}, from "
            f"{made.checkpoint}{unfinished}; next: launch --head {made.head}"
        )
    return 0


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    from sglang_qwen3next_eagle3.train.evaluate import MAX_TOKENS, EvaluationOptions

    defaults, add = defaults_of(EvaluationOptions), parser.add_argument
    add("--head", type=Path, required=True, metavar="DIR", help="a head, as `train export` writes")
    add("--target", default=defaults["target"], help="folder, hub name or `demo` (default)")
    add("--features", type=Path, required=True, metavar="DIR", help="held-out captured features")
    add("--aux-layers", metavar="SELECTION", help="default: the head's calibration or config")
    add("--steps", type=int, default=defaults["steps"], help="draft steps (default: %(default)s)")
    add("--max-samples", type=int, metavar="N", help="default: all")
    add("--device", help="default: cuda if there is one")
    add("--base-url", metavar="URL", help="measure a running server too, with --prompts")
    add_key_options(parser)
    add("--prompts", type=Path, metavar="FILE", help="JSONL with `prompt` or `conversations`")
    add(
        "--max-tokens",
        type=int,
        default=MAX_TOKENS,
        help="per served answer (default: %(default)s)",
    )
    add("--json", action="store_true", help="print JSON for a script")


def _evaluate(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.base.errors import UserError
    from sglang_qwen3next_eagle3.train import evaluate

    if (arguments.base_url is None) != (arguments.prompts is None):
        raise UserError("--base-url and --prompts go together: a server is asked with prompts")
    options = options_of(evaluate.EvaluationOptions, arguments)
    prompts = evaluate.read_prompts(arguments.prompts) if arguments.prompts else []
    result = evaluate.evaluate(options)
    served = None
    if prompts:
        # The second is where earlier versions looked.
        key = key_of(arguments) or os.environ.get("OPENAI_API_KEY")
        served = evaluate.measure(arguments.base_url, prompts, arguments.max_tokens, key)
    if arguments.json:
        print(json.dumps({**asdict(result), "served": served}, indent=2))
        return 0
    print(
        f"{result.positions} positions and {result.chains} chains in answers of "
        f"{result.samples} samples"
    )
    for k, accuracy in enumerate(result.accuracies):
        length = result.accept_lengths[k]
        print(f"acc_{k} {accuracy:.4f}   chain of {k + 1}: accept length {length:.3f} predicted")
    if served is not None:
        print(
            f"served: accept length {served['accept_length']:.3f} over {served['answers']} answers "
            f"({served['completion_tokens']} tokens)"
        )
    return 0


@contextmanager
def _going_on(where: str) -> Iterator[None]:
    """An interrupt is no error: what is done is kept."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        stopped.add_note(f"the same command goes on {where}")
        raise


ACTIONS = {
    "prepare": Action(
        "conversations of many formats to SpecForge's JSONL", _prepare_arguments, _prepare
    ),
    "vocab": Action(
        "choose the draft vocabulary by how often answers use a token", _vocab_arguments, _vocab
    ),
    "capture": Action(
        "write the target's auxiliary and last hidden states to disk", _capture_arguments, _capture
    ),
    "run": Action("train a head with SpecForge, by a recipe", _run_arguments, _run),
    "export": Action("a checkpoint to a head that can be served", _export_arguments, _export),
    "evaluate": Action(
        "accuracy by draft step, predicted and served accept length",
        _evaluate_arguments,
        _evaluate,
    ),
}
