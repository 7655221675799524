"""`train prepare`: conversations from anywhere to the JSONL that SpecForge and `train` read.

The output folder gets train.jsonl and eval.jsonl, a line each `{"id", "conversations"}`, and
prepare.json: what was read, what was left out and why, and the checksums. The same arguments give
the same files byte for byte (unless answers are regenerated), and start again what was killed.
"""

import argparse
import json
import sys
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.serving.client import DEFAULT_BASE_URL
from sglang_qwen3next_eagle3.train.data import sources
from sglang_qwen3next_eagle3.train.data.build import EVAL, TRAIN, build, summary
from sglang_qwen3next_eagle3.train.data.decontaminate import NGRAM, Excluded, read_texts
from sglang_qwen3next_eagle3.train.data.formats import FORMATS
from sglang_qwen3next_eagle3.train.data.plan import Plan, request
from sglang_qwen3next_eagle3.train.data.pool import Pool, Rules
from sglang_qwen3next_eagle3.train.data.regenerate import Settings, served_model
from sglang_qwen3next_eagle3.train.data.workspace import REPORT, claim

_EPILOG = f"""
SOURCE is spelled {sources.SPELLING}:
  a JSON array, JSONL (either gzipped or not) or Parquet file, or a hub name for `datasets`.
  weight    share of the conversations drawn, against the other sources' (default 1)
  format    {", ".join(FORMATS)}; told from the first record that is of any by default
  config, split, revision   of a hub name; split is `train` by default
Without --samples everything is taken; with weights, as many as keep to the shares until the first
source runs out. With --samples a source that runs out is drawn whole and the others fill up.

Duplicates are conversations with equal roles and texts but for white space (with --regenerate,
without the answers); the first one read stays. The same question with another answer is none, but
a first question is never in both {TRAIN} and {EVAL}. While it runs, the folder needs scratch
space for the text of all sources.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = {one.name: one.default for one in fields(Plan)}
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("--source", action="append", required=True, metavar="SOURCE", help="see below; repeatable")
    add("--out", type=Path, required=True, metavar="DIR", help="new folder, or the same again")
    add("--samples", type=int, metavar="N", help="conversations to draw, evaluation included")
    held = parser.add_mutually_exclusive_group()
    held.add_argument("--eval-samples", type=int, metavar="N", help=f"of these, for {EVAL}")
    held.add_argument(
        "--eval-fraction", type=float, metavar="F", help=f"default: {defaults['evaluation']}"
    )
    add("--seed", type=int, default=defaults["seed"], help="default: %(default)s")
    add(
        "--exclude", action="append", type=Path, default=[], metavar="FILE",
        help=f"JSONL of a benchmark (prompt, turns or messages): leave out conversations with "
        f"{NGRAM} words in a row of it; repeatable",
    )  # fmt: skip
    add(
        "--min-answer-chars", type=int, default=defaults["min_answer_chars"], metavar="N",
        help="shorter answers, all of a conversation together, are left out (default: %(default)s)",
    )  # fmt: skip
    add("--json", action="store_true", help=f"print {REPORT} instead of a summary")
    again = parser.add_argument_group("regeneration")
    again.add_argument(
        "--regenerate", action="store_true", help="replace the answers by those of a served target"
    )
    chosen = {one.name: one.default for one in fields(Settings)}
    again.add_argument("--base-url", metavar="URL", help=f"default: {DEFAULT_BASE_URL}")
    again.add_argument("--model", metavar="M", help="default: the one that is served")
    again.add_argument("--api-key", metavar="KEY")
    for name, kind in (
        ("concurrency", int), ("max-tokens", int), ("temperature", float), ("retries", int),
        ("timeout", float),
    ):  # fmt: skip
        unit = " (seconds)" if name == "timeout" else ""
        default = chosen[name.replace("-", "_")]
        again.add_argument(f"--{name}", type=kind, metavar="N", help=f"default: {default}{unit}")


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0, or 130 after Ctrl-C. Raises UserError."""
    plan = plan_of(arguments)
    try:
        report = prepare(plan)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise UserError(
            f"{where}{error.strerror or error}: mend that and run the same command again"
        ) from None
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on from here", file=sys.stderr)
        return 130
    if arguments.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print("\n".join(summary(plan.out, report)))
    return 0


def plan_of(arguments: argparse.Namespace) -> Plan:
    """Raises UserError for values that do not fit."""
    settings = {
        name: getattr(arguments, name)
        for name in (one.name for one in fields(Settings))
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
    again = {"base_url": DEFAULT_BASE_URL, **settings}
    return Plan(
        sources=tuple(sources.labelled([sources.parse_source(text) for text in arguments.source])),
        out=arguments.out,
        samples=arguments.samples,
        evaluation=Plan.evaluation if held is None else held,
        seed=arguments.seed,
        min_answer_chars=arguments.min_answer_chars,
        excludes=tuple(arguments.exclude),
        regenerate=Settings(**again) if arguments.regenerate else None,
    )


def prepare(plan: Plan) -> dict[str, Any]:
    """Make the folder, or find it made. The report, as prepare.json holds it.

    Raises:
        UserError: a source is missing or wholly bad, nothing is left, the folder holds something
            else, or the server is gone (what was answered is kept).
    """
    opened = [sources.open_source(source) for source in plan.sources]
    excluded = Excluded(text for path in plan.excludes for text in read_texts(path))
    with claim(plan.out, request(plan, opened)) as workspace:
        if workspace.report is not None:
            print(f"{plan.out} is prepared already", file=sys.stderr)
            return workspace.report
        if plan.regenerate is not None:
            asked = replace(plan.regenerate, model=served_model(plan.regenerate))
            plan = replace(plan, regenerate=asked)
        rules = Rules(excluded, plan.min_answer_chars, keep_answers=plan.regenerate is None)
        with closing(Pool(workspace.work, rules)) as read:
            for one in opened:
                read.read(one)
            return build(plan, workspace, read)
