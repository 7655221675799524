"""`doctor`'s memory plan against SGLang's own code, which is run on GPUs that are not there.

SGLang resolves the command line and sizes its pools; only what it would ask a GPU for is given.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.overrides import TorchFunctionMode

from sglang_qwen3next_eagle3.model import published
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.serving import flags
from sglang_qwen3next_eagle3.serving.doctor import memory, settings, weights
from tests.support.checkpoints import write_config

H200, H100, A10 = 143771.0, 81559.0, 23028.0
GIB = 2**30
HEAD = published.HEAD
TREES = {
    "none": [],
    "wide": ["EAGLE3", "3", "4", "8"],
    "narrow": ["EAGLE3", "5", "1", "6"],
    "mtp": ["NEXTN", "3", "1", "4"],
}
CASES: dict[str, tuple[float, int, str, str]] = {
    # MiB of the GPU, ranks, what drafts, further flags.
    "b1": (H200, 4, "wide", ""),
    "b32": (H200, 4, "narrow", ""),
    "b32-wide": (H200, 4, "wide", "--max-running-requests 32"),
    "no speculation": (H200, 4, "none", ""),
    "mtp": (H200, 4, "mtp", ""),
    "speed": (
        H200, 4, "wide",
        "--max-running-requests 32 --disable-radix-cache --cuda-graph-bs-decode 1 32 "
        "--disable-prefill-cuda-graph --context-length 8192 --mem-fraction-static 0.85",
    ),
    "bf16 states": (H200, 2, "wide", "--mamba-ssm-dtype bfloat16 --mem-fraction-static 0.95"),
    "fp8 kv": (H200, 4, "narrow", "--kv-cache-dtype fp8_e4m3"),
    "lazy": (H200, 4, "none", "--mamba-radix-cache-strategy extra_buffer_lazy"),
    "no buffer": (
        H200, 4, "none", "--mamba-radix-cache-strategy no_buffer --disable-overlap-schedule"
    ),
    "no overlap": (H200, 4, "wide", "--disable-overlap-schedule"),
    "own states": (H200, 4, "wide", "--max-mamba-cache-size 200"),
    "few states": (H200, 4, "wide", "--max-mamba-cache-size 12"),
    "own ratio": (H200, 4, "narrow", "--mamba-full-memory-ratio 0.3"),
    "pages": (H200, 4, "narrow", "--page-size 64"),
    "capped": (H200, 4, "narrow", "--max-total-tokens 100k"),
    "graphs": (H200, 2, "none", "--mem-fraction-static 0.92 --cuda-graph-max-bs-decode 8"),
    "eight": (H200, 8, "wide", ""),
    "h100": (H100, 4, "wide", ""),
    "h100 full": (H100, 2, "wide", ""),
    "a10": (A10, 8, "none", ""),
    "many": (H200, 2, "wide", "--max-running-requests 512 --mem-fraction-static 0.9"),
    "unchunked": (H200, 4, "none", "--chunked-prefill-size -1"),
}  # fmt: skip
TOO_SMALL = {"h100 full", "a10"}


class OnMeta(TorchFunctionMode):
    """Tensors without memory, also those that SGLang makes on `cuda`."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if "device" in kwargs:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pair")
    return {
        "target": write_config(root / "target", published.CODER_NEXT),
        "head": write_config(root / "head", HEAD),
    }


def command(folders: dict[str, Path], case: str) -> list[str]:
    _, tp, tree, extra = CASES[case]
    words = ["--model-path", str(folders["target"]), "--tp", str(tp), "--device", "cuda"]
    words += ["--attention-backend", "triton", "--skip-tokenizer-init"]
    if tree != "none":
        algorithm, steps, topk, drafts = TREES[tree]
        words += ["--speculative-algorithm", algorithm, "--speculative-num-steps", steps]
        words += ["--speculative-eagle-topk", topk, "--speculative-num-draft-tokens", drafts]
        if algorithm == "EAGLE3":
            words += ["--speculative-draft-model-path", str(folders["head"])]
    return words + extra.split()


def inputs_of(words: list[str], case: str) -> memory.Inputs:
    mib, tp, tree, _ = CASES[case]
    target = Target.from_config(published.CODER_NEXT)
    algorithm = {"none": "none", "mtp": "nextn"}.get(tree, "eagle3")
    resolved = settings.resolve(flags.parse(words), {}, target, algorithm, mib)
    loaded = memory.Weights(weights.target_bytes(weights.of_config(target), target, tp, 2))
    return memory.Inputs(
        resolved,
        target,
        loaded,
        before=int((mib / 1024 - 1.1) * GIB),
        draft_config=HEAD if algorithm == "eagle3" else None,
    )


@pytest.fixture
def sglang(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str], memory.Inputs, float], Any]:
    """Arguments as SGLang resolves them, and the pools it would make."""
    from sglang.srt import server_args, utils
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.mem_cache import kv_cache_configurator, memory_pool
    from sglang.srt.runtime_context import get_context, get_parallel
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    monkeypatch.setenv("SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN", "1")
    # SGLang writes the flag into it.
    monkeypatch.delenv("SGLANG_MAMBA_SSM_DTYPE", raising=False)
    monkeypatch.setattr(server_args, "is_cuda", lambda: True)
    monkeypatch.setattr(utils, "is_cuda", lambda: True)

    def run(words: list[str], inputs: memory.Inputs, mib: float) -> Any:
        monkeypatch.setattr(server_args, "get_device_memory_capacity", lambda device=None: mib)
        arguments = server_args.prepare_server_args(words)
        loaded = inputs.weights
        after = inputs.before - loaded.target - loaded.draft - loaded.loading
        monkeypatch.setattr(
            kv_cache_configurator, "get_available_gpu_memory", lambda *a, **k: after / GIB
        )
        monkeypatch.setattr(
            kv_cache_configurator,
            "get_world_group",
            lambda: SimpleNamespace(world_size=1, cpu_group=None),
        )
        context = get_context()
        algorithm = SpeculativeAlgorithm.from_string(arguments.speculative_algorithm)
        drafts = 1 if arguments.speculative_draft_model_path else None
        config = ModelConfig.from_server_args(arguments)
        made = object.__new__(kv_cache_configurator.KVCacheConfigurator)
        kv = {"auto": "bfloat16", "fp8_e4m3": "float8_e4m3fn"}[arguments.kv_cache_dtype]
        import torch

        for name, value in {
            "device": "cuda",
            "gpu_id": 0,
            "ps": SimpleNamespace(attn_dp_size=1, pp_size=1, attn_cp_size=1),
            "model_config": config,
            "server_args": arguments,
            "kv_cache_dtype": getattr(torch, kv),
            "kv_cache_dtype_str": None,
            "model_dtype": torch.bfloat16,
            "page_size": arguments.page_size,
            "spec_algorithm": algorithm,
            "is_draft_worker": False,
            "post_capture_kv_active": False,
            "spec_aux_config": SimpleNamespace(eagle_draft_num_layers=drafts),
            "is_hybrid_swa": False,
            "is_hybrid_swa_compress": False,
            "use_mla_backend": False,
            "layer_info": SimpleNamespace(start_layer=0, end_layer=48, num_effective_layers=48),
            "draft_model_idx": None,
        }.items():
            setattr(made, name, value)
        with context.override_server_args():
            context.set_server_args(arguments)
            with get_parallel().override(attn_tp_size=arguments.tp_size, tp_size=arguments.tp_size):
                made.__post_init__()
                try:
                    pools = made._resolve_memory_pool_config(inputs.before / GIB)
                except (RuntimeError, ValueError) as error:
                    pools = error
                state = config.hf_config.mamba2_cache_params
                drafted = arguments.max_speculative_num_draft_tokens
                with OnMeta():
                    states = None
                    if not isinstance(pools, Exception):
                        states = memory_pool.MambaPool(
                            size=context.config_bag("schedule").max_mamba_cache_size,
                            spec_state_size=pools.max_running_requests,
                            cache_params=state,
                            mamba_layer_ids=state.layers,
                            device="meta",
                            speculative_num_draft_tokens=drafted,
                            speculative_eagle_topk=arguments.speculative_eagle_topk,
                        ).mem_usage
                slots = context.config_bag("schedule").max_mamba_cache_size
                facts = SimpleNamespace(
                    arguments=arguments,
                    pools=pools,
                    slots=slots,
                    state=state.mamba_cache_per_req,
                    fraction=context.config_bag("schedule").mem_fraction_static,
                    each=made._calculate_mamba_ratio(),
                    states=states,
                )
        monkeypatch.delenv("SGLANG_MAMBA_SSM_DTYPE", raising=False)
        return facts

    return run


@pytest.mark.parametrize("case", CASES)
def test_the_plan_is_what_sglang_makes_of_the_same_command(
    case: str,
    folders: dict[str, Path],
    sglang: Callable[[list[str], memory.Inputs, float], Any],
) -> None:
    words = command(folders, case)
    inputs = inputs_of(words, case)
    plan = memory.plan(inputs)
    found = sglang(words, inputs, CASES[case][0])
    resolved = inputs.settings
    assert resolved.fraction == found.fraction
    assert resolved.max_running_requests == found.arguments.max_running_requests
    assert resolved.page_size == found.arguments.page_size
    assert memory.slots_each(resolved) == found.each
    assert plan.state.both == found.state
    if case in TOO_SMALL:
        assert isinstance(plan.pools, memory.DoesNotFit)
        assert isinstance(found.pools, Exception), "SGLang would serve this"
        return
    assert isinstance(plan.pools, memory.Pools), plan.pools
    assert not isinstance(found.pools, Exception), found.pools
    assert plan.pools.slots == pytest.approx(found.slots, abs=1)
    assert plan.pools.requests == found.pools.max_running_requests
    per_slot = plan.state.both / GIB
    assert (plan.states + plan.verification) / GIB == pytest.approx(found.states, abs=2 * per_slot)
    # Bytes are rounded as GiB here and there.
    assert plan.pools.tokens == pytest.approx(found.pools.max_total_num_tokens, abs=200)
