"""What `bench speed --prefill-graphs` and the captured streams rely on in SGLang's prefill graphs,
as far as a CPU tells."""

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sglang.srt.model_executor.cuda_graph_config import Backend, Phase
from sglang.srt.model_executor.runner import prefill_cuda_graph_runner
from sglang.srt.model_executor.runner_backend.breakable_cuda_graph_backend import (
    BreakableCudaGraphBackend,
)
from sglang.srt.server_args import ServerArgs

from sglang_qwen3next_eagle3.bench import speed
from sglang_qwen3next_eagle3.bench.options import SpeedOptions


def resolved(words: Sequence[str]) -> Any:
    """SGLang's arguments with what it makes of flags of its graphs; no model is read."""
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    given = ServerArgs.__new__(ServerArgs)
    vars(given).update(vars(parser.parse_args(["--model-path", "none", *words])))
    if hasattr(given, "_parse_cuda_graph_config"):
        given._parse_cuda_graph_config()
    else:
        # As 0.5.23 has it.
        hook = importlib.import_module("sglang.srt.arg_groups.cuda_graph_hook")
        hook.parse_cuda_graph_config(given)
    return given


def test_sizes_and_backend_are_taken_as_they_are_told(tmp_path: Path) -> None:
    # With a target of one's own nothing is written.
    asked = SpeedOptions(out=tmp_path, target="org/mine", prefill_graphs=(256, 512))
    given = resolved(speed.synthetic_pair(asked, tmp_path)[1])
    assert given.cuda_graph_config.prefill.backend == Backend.BREAKABLE
    assert given.cuda_graph_config.prefill.bs == [256, 512]
    # So that they are not left out where little memory is free, or by another rule.
    assert (Phase.PREFILL, "backend") in given._cuda_graph_config_locked


def test_a_prefill_is_padded_as_far_as_the_benchmark_says() -> None:
    assert speed.PADDING == prefill_cuda_graph_runner._MAX_PREFILL_CUDA_GRAPH_PADDING_FACTOR


def test_captured_streams_come_out_of_a_graph_beside_the_states() -> None:
    """The plugin's selection may have any number of streams; a graph's output is copied by what it
    is made of."""
    backend = BreakableCudaGraphBackend.__new__(BreakableCudaGraphBackend)
    out = torch.randn(8, 4), [torch.randn(8, 4) for _ in range(4)]
    buffer = backend._alloc_full_buffer(out, 8)
    assert backend._output_rows(out, 8) == 8
    backend._copy_output_to_buffer(out, buffer, 8)
    states, streams = backend._slice_output(buffer, 8)
    assert torch.equal(states, out[0])
    assert len(streams) == 4
    assert all(torch.equal(a, b) for a, b in zip(streams, out[1], strict=True))
