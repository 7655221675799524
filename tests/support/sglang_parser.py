"""SGLang's own way to read its flags, argparse, built from our table of them."""

import argparse

from sglang_qwen3next_eagle3.serving import flags


def parser() -> argparse.ArgumentParser:
    """One that takes what SGLang's takes, words as strings."""
    built = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    for flag in all_flags():
        if flag.values == "0":
            built.add_argument(*flag.names, dest=flag.dest, action="store_true")
        elif flag.values == "1":
            built.add_argument(*flag.names, dest=flag.dest)
        else:
            built.add_argument(*flag.names, dest=flag.dest, nargs=flag.values)
    return built


def all_flags() -> list[flags.Flag]:
    return list({flag.dest: flag for flag in flags.table().values()}.values())
