"""SGLang's own worker, runners and backends around a cycle, on tensors without memory.

Everything between the graphs is the installed SGLang's code; in place of the graphs stands nothing,
and kernels are not launched. So a recording shows what it would hold: that nothing of it needs the
host, and that it uses no tensor of the batch that it was not given. Changes what is global: for a
process of its own (tests/support/check_cycles.py).
"""

import contextlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import triton
from sglang.kernels.ops.mamba import mamba_state_scatter_triton
from sglang.kernels.ops.speculative import cache_locs
from sglang.srt import distributed, runtime_context
from sglang.srt.layers.attention.hybrid_linear_attn_backend import HybridLinearAttnBackend
from sglang.srt.layers.attention.linear.gdn_backend import GDNAttnBackend
from sglang.srt.layers.attention.triton_backend import (
    TritonAttnBackend,
    TritonMultiStepDraftBackend,
)
from sglang.srt.layers.attention.verify_mask import VerifyMask
from sglang.srt.layers.logits_processor import LogitsProcessorOutput
from sglang.srt.managers import overlap_utils
from sglang.srt.managers.schedule_batch import ScheduleBatch
from sglang.srt.managers.tp_worker import TpModelWorker
from sglang.srt.model_executor import forward_batch_info, model_runner
from sglang.srt.model_executor.cuda_graph_buffer_registry import build_decode_registry
from sglang.srt.model_executor.forward_batch_info import CaptureHiddenMode, ForwardMode
from sglang.srt.model_executor.model_runner import ModelRunner
from sglang.srt.model_executor.runner.decode_cuda_graph_runner import DecodeCudaGraphRunner
from sglang.srt.model_executor.runner.shape_key import ShapeKey
from sglang.srt.model_executor.runner_backend.full_cuda_graph_backend import FullCudaGraphBackend
from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo
from sglang.srt.speculative import eagle_utils, eagle_worker_common, eagle_worker_v2, spec_utils
from sglang.srt.speculative.eagle_draft_cuda_graph_runner import EAGLEDraftCudaGraphRunner
from sglang.srt.speculative.eagle_draft_extend_cuda_graph_runner import (
    EAGLEDraftExtendCudaGraphRunner,
)
from sglang.srt.speculative.eagle_info import EagleDraftInput
from sglang.srt.speculative.eagle_utils import TreeMaskMode
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

from sglang_qwen3next_eagle3.overlay import variants

DEVICE = "meta"
STEPS, MOST, VOCABULARY, HIDDEN, POOL, CONTEXT = 3, 4, 100, 16, 20, 64
EAGLE3 = SpeculativeAlgorithm.EAGLE3


def made(cls: Any, **values: Any) -> Any:
    """One of SGLang's, without what it would load and allocate."""
    new = object.__new__(cls)
    vars(new).update(values)
    return new


def zeros(*shape: int, dtype: Any = torch.int64) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype, device=DEVICE)


def nothing(*_: Any, **__: Any) -> Any:
    return contextlib.nullcontext()


class Graph:
    """In place of CUDA's."""

    captured = 0

    def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
        pass

    def capture_end(self) -> None:
        Graph.captured += 1

    def replay(self) -> None:
        pass


class Launches:
    """The tensors that Triton's kernels are launched with."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []
        seen = self.seen

        def launch(kernel: Any, grid: Any) -> Any:
            name = kernel.fn.__name__
            return lambda *of, **named: seen.extend((name, it) for it in (*of, *named.values()))

        triton.runtime.jit.JITFunction.__getitem__ = launch


def prepare(topk: int, nodes: int) -> Any:
    """What SGLang asks of the machine and of its arguments; those arguments."""
    stream = SimpleNamespace(wait_stream=nothing, wait_event=nothing)
    device = SimpleNamespace(
        current_stream=lambda *_: stream, Event=lambda: SimpleNamespace(record=nothing)
    )
    cuda: Any = torch.cuda
    setattr(torch, "get_device_module", lambda *_: device)  # noqa: B010
    setattr(torch.Tensor, "record_stream", nothing)  # noqa: B010
    cuda.current_stream = lambda *_: "a side"
    cuda.default_stream = lambda *_: "the default"
    arguments = SimpleNamespace(
        page_size=1, speculative_use_rejection_sampling=False, enable_lora=False,
        speculative_num_steps=STEPS, speculative_eagle_topk=topk, pp_size=1, device=device,
        enable_two_batch_overlap=False, enable_pdmux=False, enable_unified_memory=False,
        enable_memory_saver=False, disaggregation_mode="null", attention_backend="triton",
        speculative_num_draft_tokens=nodes, enable_mamba_extra_buffer=lambda: True,
        enable_mamba_extra_buffer_lazy=lambda: False, enable_eplb=False,
        expert_distribution_recorder_mode=None, msprobe_dump_config=None, tp_size=1,
        speculative_accept_threshold_single=1.0, speculative_accept_threshold_acc=1.0,
    )  # fmt: skip
    parallel = SimpleNamespace(enable_dp_attention=False, moe_ep_size=1)
    runtime_context.get_parallel = forward_batch_info.get_parallel = lambda: parallel
    for module in (spec_utils, eagle_utils, overlap_utils):
        module.get_server_args = lambda: arguments
    for module in (eagle_worker_v2, eagle_utils):
        module.get_spec = lambda: arguments
        module._is_cuda = True
    cache_locs._is_cuda = True
    mamba = SimpleNamespace(mamba_track_interval=64)
    spec_utils.get_exec = lambda: SimpleNamespace(mamba=mamba)
    spec_utils.mambaish_config = lambda _: "a config"
    spec_utils.set_mamba_track_indices_from_reqs = track
    moe = SimpleNamespace(elastic_ep_backend=None)
    model_runner.get_exec = lambda: SimpleNamespace(moe=moe)
    model_runner.get_schedule = lambda: SimpleNamespace(disable_overlap_schedule=False)
    model_runner.get_global_experts_capturer = lambda: None
    model_runner.get_global_indexer_capturer = lambda: None
    recorder = SimpleNamespace(with_forward_pass=lambda *_: contextlib.nullcontext({}))
    model_runner.get_global_expert_distribution_recorder = lambda: recorder
    for name in ("speculative_moe_backend_context", "speculative_moe_a2a_backend_context"):
        setattr(eagle_worker_v2, name, nothing)
    # CUDA kernels, which a CPU's build lacks.
    eagle_utils.verify_tree_greedy_func = lambda **given: (
        given["predicts"], given["accept_index"], given["accept_token_num"]
    )  # fmt: skip
    put_kernels(sampling_kernels())
    distributed.get_tp_group = lambda: SimpleNamespace(world_size=1)
    eagle_worker_common.build_tree_kernel_efficient = tree
    for name in ("fused_mamba_state_scatter_with_mask", "fused_conv_window_scatter_with_mask"):
        setattr(mamba_state_scatter_triton, name, nothing)
    if variants.has_layer_boundaries():
        publish(arguments)
    return arguments


def put_kernels(kernels: Any) -> None:
    """Where 0.5.17 imports them from in each verify, and where 0.5.23 has them."""
    sys.modules["sgl_kernel"] = kernels
    for name in ("top_k_renorm_prob", "top_p_renorm_prob", "tree_speculative_sampling_target_only"):
        setattr(eagle_utils, name, getattr(kernels, name))


def sampling_kernels() -> Any:
    """CUDA's, which read what they are given."""

    def cut(probs: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
        return probs * limits[:, None]

    def draw(predicts: torch.Tensor, **given: Any) -> None:
        given["target_probs"].sum(-1)
        predicts.add_(given["uniform_samples"].sum().int())
        given["accept_index"].add_(given["uniform_samples_for_final_sampling"][:, None].int())

    made_up: Any = ModuleType("sgl_kernel")
    made_up.top_k_renorm_prob = made_up.top_p_renorm_prob = cut
    made_up.tree_speculative_sampling_target_only = draw
    return made_up


def publish(arguments: Any) -> None:
    """What a newer SGLang asks of its process's context instead."""
    torch.Tensor.is_cuda = property(lambda tensor: tensor.device.type == DEVICE)  # type: ignore[assignment]
    parallel = SimpleNamespace(
        attn_dp_enabled=False,
        moe_ep_size=1,
        pp_size=1,
        dp_size=1,
        attn_dcp_size=1,
        tp_size=1,
        tp_group=SimpleNamespace(world_size=1),
    )
    mamba = SimpleNamespace(
        mamba_track_interval=64, enable_mamba_extra_buffer=True,
        enable_mamba_extra_buffer_lazy=False,
    )  # fmt: skip
    executes = SimpleNamespace(mamba=mamba, moe=SimpleNamespace(elastic_ep_backend=None))
    contexts = {
        "get_parallel": parallel, "get_exec": executes, "get_spec": arguments,
        "get_schedule": SimpleNamespace(disable_overlap_schedule=False),
        "get_model": SimpleNamespace(override=nothing), "get_lora": None, "get_memory": None,
    }  # fmt: skip
    asked: dict[str, Any] = {
        name: lambda context=context: context for name, context in contexts.items()
    }
    asked["mamba_track_grid"] = lambda page: 64
    for module in [it for name, it in sys.modules.items() if name.startswith("sglang.")]:
        for name in asked.keys() & vars(module).keys():
            setattr(module, name, asked[name])


def track(batch: Any, positions: Any = None) -> None:
    batch.mamba_track_indices = zeros(len(batch.reqs))


def tree(
    bonus: Any, parents: Any, order: Any, drafts: Any, seq_lens: Any, *of: Any, **_: Any
) -> Any:
    requests, nodes, mask = seq_lens.shape[0], of[3], of[5]
    links = [zeros(requests, nodes) for _ in range(3)]
    rest = zeros(requests, nodes - 1)
    tokens = torch.cat([bonus.unsqueeze(1), rest], dim=1).flatten()
    return mask.fill_(True), zeros(requests * nodes), *links, tokens


def triton_backend(nodes: int, table: Any, mask: Any = None) -> Any:
    return made(
        TritonAttnBackend, device=DEVICE, num_draft_tokens=nodes, speculative_num_steps=STEPS,
        sliding_window_size=None, window_kv_indptr=None, req_to_token=table, _verify_mask=mask,
        kv_indptr=zeros(POOL + 1, dtype=torch.int32), qo_indptr=zeros(POOL + 1, dtype=torch.int32),
        mask_indptr=zeros(POOL + 1), cuda_graph_kv_indices=zeros(POOL * CONTEXT), dcp_size=1,
        _translate_kv_loc=None, use_sliding_window_kv_pool=False, static_kv_splits=False,
        device_core_count=1, enable_deterministic=False, split_tile_size=None, max_kv_splits=8,
        num_head=4, num_kv_head=2, max_context_len=CONTEXT,
        target_verify_num_tokens_per_req=nodes, kv_index_translator=translator(table),
        cuda_graph_num_kv_splits=zeros(POOL * 8, dtype=torch.int32),
    )  # fmt: skip


def gdn_backend(topk: int, nodes: int, pool: Any) -> Any:
    def each(*shape: int, more: int = 0, dtype: Any = torch.int64) -> list[Any]:
        return [zeros(size + 1 + more, *shape, dtype=dtype) for size in range(MOST)]

    starts = zeros(MOST + 1, dtype=torch.int32)
    return made(
        GDNAttnBackend, topk=topk, device=DEVICE, req_to_token_pool=pool, forward_metadata=None,
        _fused_state_indices_ok=True, replayssm_write_pos_list=None,
        kernel_dispatcher=SimpleNamespace(target_verify_supports_strided_qkv=nothing),
        state_indices_list=each(dtype=torch.int32),
        query_start_loc_list=each(more=1, dtype=torch.int32),
        cached_cuda_graph_verify_query_start_loc=starts, mamba_track_indices_buf=zeros(MOST),
        retrieve_next_token_list=each(nodes), retrieve_next_sibling_list=each(nodes),
        retrieve_parent_token_list=each(nodes), _translate_mamba_indices=lambda indices: indices,
    )  # fmt: skip


def translator(table: Any) -> Any:
    """A newer SGLang's plan of where tokens lie: in the slots that a request's row holds."""
    if not variants.has_layer_boundaries():
        return None
    from sglang.srt.mem_cache import kv_index_translator as plans

    full = plans.IdSpaceKind.FULL
    return made(
        plans.KVIndexTranslator, req_to_token=table, is_translating=False, page_size=1,
        device=DEVICE, defer_read_translate=False, _spaces={full: plans.IdSpace(key=(full, None))},
    )  # fmt: skip


def buffers(tokens: int, **others: Any) -> Any:
    """What all three graphs read, and others."""
    return SimpleNamespace(
        input_ids=zeros(tokens), positions=zeros(tokens), mrope_positions=zeros(3, tokens),
        req_pool_indices=zeros(MOST), seq_lens=zeros(MOST),
        seq_lens_cpu=torch.zeros(MOST, dtype=torch.int64), global_num_tokens_gpu=None,
        global_num_tokens_for_logprob_gpu=None, **others,
    )  # fmt: skip


def graph_runner(cls: Any, width: int, of: Any, attention: Any, gives: Any, **others: Any) -> Any:
    """One of SGLang's three; gives: what its graph of so many requests gives."""
    backend = made(FullCudaGraphBackend)
    sizes = [ShapeKey(size=size + 1) for size in range(MOST)]
    backend._graphs = {size: Graph() for size in sizes}
    backend._outputs = {size: gives(size.size) for size in sizes}
    return made(
        cls, device=DEVICE, device_module=of.server_args.device, model_runner=of,
        require_gathered_buffer=False, require_mlp_tp_gather=False, require_mlp_sync=False,
        require_attn_tp_gather=False,
        disable_padding=False, captured_req_width=width, capture_bs=[1, 2, 4], max_bs=MOST,
        deepep_adapter=SimpleNamespace(replay=nothing), seq_len_fill_value=1, backend=backend,
        attn_backend=attention, enable_pdmux=False, record_nolora_graph=False,
        speculative_num_steps=STEPS, **others,
    )  # fmt: skip


def outputs(requests: int, nodes: int, width: int) -> Any:
    rows = requests * nodes
    return LogitsProcessorOutput(
        next_token_logits=zeros(rows, VOCABULARY, dtype=torch.float32),
        hidden_states=zeros(rows, width, dtype=torch.bfloat16),
    )


def worker_of(topk: int, nodes: int) -> Any:
    """SGLang's `EAGLEWorkerV2`, ready to run cycles."""
    arguments = prepare(topk, nodes)
    table = zeros(POOL, CONTEXT, dtype=torch.int32)
    states = SimpleNamespace(
        temporal=zeros(2, POOL, 4), intermediate_ssm=zeros(2, POOL, nodes, 4),
        conv=[zeros(2, POOL, 4)], intermediate_conv_window=[zeros(2, POOL, nodes, 4)],
    )  # fmt: skip
    pool = SimpleNamespace(
        req_to_token=table, req_index_to_mamba_index_mapping=zeros(POOL, dtype=torch.int32),
        mamba_pool=SimpleNamespace(
            replayssm_spec_fold=False, replayssm_cache_base=None,
            mamba_cache=SimpleNamespace(
                replayssm_rawv=None, replayssm_d=None, temporal=states.temporal
            ),
        ),
        mamba_v2p_table=None, short_conv_pool=SimpleNamespace(conv_state=None),
        ngram_pool=SimpleNamespace(context=None),
        get_speculative_mamba2_params_all_layers=lambda: states,
    )  # fmt: skip
    cells = zeros(MOST * nodes * (CONTEXT + nodes), dtype=torch.bool)
    mask = VerifyMask(buffer=cells, mode=TreeMaskMode.FULL_MASK, max_bs=MOST)
    attention, gdn = triton_backend(nodes, table, mask), gdn_backend(topk, nodes, pool)
    hybrid = made(
        HybridLinearAttnBackend, full_attn_backend=attention, linear_attn_backend=gdn,
        attn_backend_list=[attention, gdn],
    )  # fmt: skip
    steps = made(
        TritonMultiStepDraftBackend, topk=topk, speculative_num_steps=STEPS, device=DEVICE,
        kv_indptr=zeros(STEPS, POOL * topk + 1, dtype=torch.int32), req_to_token_pool=pool,
        attn_backends=[triton_backend(nodes, table) for _ in range(STEPS - 1)], pool_len=CONTEXT,
        max_context_len=CONTEXT, page_size=1,
        cuda_graph_kv_indices=zeros(STEPS, MOST * topk * CONTEXT), window_rail=False,
        cuda_graph_window_kv_indices=None, draft_window_size=0, draft_sink_size=0,
        kv_index_translator=translator(table),
    )  # fmt: skip
    extend = triton_backend(nodes, table)
    config = SimpleNamespace(
        vocab_size=VOCABULARY,
        model_is_mrope=False,
        spec_hidden_size=HIDDEN,
        dtype=torch.bfloat16,
        requires_mm_token_modalities=False,
    )

    def runner(draft: bool, backend: Any) -> Any:
        return made(
            ModelRunner, device="cuda", server_args=arguments, spec_algorithm=EAGLE3,
            is_draft_worker=draft, model_config=config, req_to_token_pool=pool, tp_group=None,
            canary_manager=None, device_timer=None, war_fastpath_read_done_event=None,
            forward_pass_id=0, msprobe_debugger=None, enable_elastic_ep=False, eplb_manager=None,
            hisparse_coordinator=None, dcp_size=1, attn_backend=backend,
            model=SimpleNamespace(shared_experts_config=None),
            kv_index_translator=translator(table), watermark_state=None, lora_manager=None,
            shared_read_done_event=None,
            ngram_embedding_manager=SimpleNamespace(enabled=False),
        )  # fmt: skip

    target, draft = runner(False, hybrid), runner(True, extend)
    of_draft = buffers(
        MOST * topk, out_cache_loc=zeros(MOST * topk * STEPS), rids_int=None, draft_probs=None,
        bootstrap_room_ids_int=None, topk_p=zeros(MOST, topk, dtype=torch.float32),
        topk_index=zeros(MOST, topk), hidden_states=zeros(MOST, HIDDEN, dtype=torch.bfloat16),
        dsa_seed_topk=None, sampling_seed=None,
    )  # fmt: skip
    counts = {
        name: zeros(MOST, dtype=torch.int32)
        for name in ("extend_seq_lens", "num_correct_drafts", "num_accept_tokens")
    }
    of_extend = buffers(
        MOST * nodes, out_cache_loc=zeros(MOST * nodes), dsa_seed_topk_capture=None, **counts,
        select_index=zeros(MOST), mamba_track_indices=None,
        hidden_states=zeros(MOST * nodes, 3 * HIDDEN, dtype=torch.bfloat16),
    )  # fmt: skip
    of_target = buffers(
        MOST * nodes, out_cache_loc=zeros(MOST * nodes), mamba_track_indices=zeros(MOST),
        mamba_track_mask=zeros(MOST, dtype=torch.bool), encoder_lens=None,
        ngram_embedding_info=None, pp_proxy_tensors=None, num_token_non_padded=None,
    )  # fmt: skip
    registry = build_decode_registry(
        device=torch.device(DEVICE), max_bs=MOST, max_num_token=MOST * nodes,
        seq_len_fill_value=1, cache_loc_dtype=torch.int64, enable_mamba_track=True,
        register_global_num_tokens=False, source=of_target,
    )  # fmt: skip
    target.prefill_cuda_graph_runner = None
    target.decode_cuda_graph_runner = graph_runner(
        DecodeCudaGraphRunner, nodes, target, hybrid,
        lambda requests: outputs(requests, nodes, 3 * HIDDEN), buffers=of_target,
        buffer_registry=registry, ragged_verify_mode=False, enable_two_batch_overlap=False,
        is_encoder_decoder=False, capture_forward_mode=ForwardMode.TARGET_VERIFY,
        capture_hidden_mode=CaptureHiddenMode.FULL, is_dllm=False, dllm_uses_input_embeds=False,
        dllm_input_preparation=None, attention_graph_variants=None, _metadata_glue=None,
        _skip_glued_replay_view=False, _skips_prefilled_inputs=False,
        in_graph_metadata_prep_done=SimpleNamespace(record=nothing),
    )  # fmt: skip
    runs_target = made(
        TpModelWorker, _model_runner=target, pp_group=SimpleNamespace(is_last_rank=True),
        enable_overlap=True, enable_spec=True, model_config=config, is_dllm=lambda: False,
    )  # fmt: skip
    plans = {"plan_stream": None, "plan_stream_ctx": contextlib.nullcontext()}
    both: dict[str, Any] = {
        "server_args": arguments, "req_to_token_pool": pool, "topk": topk, "device": DEVICE,
        "speculative_num_steps": STEPS, "speculative_num_draft_tokens": nodes,
        "tree_mask_mode": TreeMaskMode.FULL_MASK, "speculative_algorithm": EAGLE3, **plans,
    }  # fmt: skip
    drafts = made(
        eagle_worker_v2.EagleDraftWorker, **both, draft_runner=draft, target_worker=runs_target,
        parallel_layout=SimpleNamespace(tp_group=None, disable_cp=False),
        seed_dsa_topk_from_draft_extend=False, draft_tp_context=nothing, hot_token_id=None,
        draft_extend_attn_backend=extend, draft_attn_backend=steps,
        cuda_graph_runner=graph_runner(
            EAGLEDraftCudaGraphRunner, topk, draft, steps,
            lambda requests: (*(zeros(requests, STEPS) for _ in range(3)), None), topk=topk,
            draft_attn_backend=steps, buffers=of_draft,
        ),
        cuda_graph_runner_for_draft_extend=graph_runner(
            EAGLEDraftExtendCudaGraphRunner, nodes, draft, extend,
            lambda requests: outputs(requests, nodes, HIDDEN), buffers=of_extend,
            forward_mode=ForwardMode.DRAFT_EXTEND_V2, draft_extend_attn_backend=extend,
            extend_seq_lens_cpu=[nodes] * MOST,
        ),
    )  # fmt: skip
    return made(
        eagle_worker_v2.EAGLEWorkerV2, **both, _draft_worker=drafts, _target_worker=runs_target,
        adaptive_controller=None, token_to_kv_pool_allocator=allocator(),
    )  # fmt: skip


def allocator() -> Any:
    cache = SimpleNamespace(move_kv_cache=nothing)
    return SimpleNamespace(page_size=1, get_kvcache=lambda: cache)


def relay_of(topk: int) -> Any:
    """SGLang's `FutureMap`, with what a first cycle left."""
    return made(
        overlap_utils.FutureMap, device=DEVICE, spec_algo=EAGLE3, needs_cpu_seq_lens=False,
        needs_confidence_relay=False, output_tokens_buf=zeros(POOL), new_seq_lens_buf=zeros(POOL),
        _forward_buf_initialized=True, dsa_topk_indices_buf=None, need_topk=True,
        publish_ready=SimpleNamespace(record=nothing), need_hidden_states=True,
        topk_p_buf=zeros(POOL, topk, dtype=torch.float32), topk_index_buf=zeros(POOL, topk),
        hidden_states_buf=zeros(POOL, HIDDEN, dtype=torch.bfloat16), draft_probs_buf=None,
    )  # fmt: skip


def batch_of(requests: int, topk: int, worker: Any, *, sampled: bool = False) -> Any:
    """A `ScheduleBatch` that is decoded, greedy or sampled with all limits."""
    info = SamplingBatchInfo(
        temperatures=zeros(requests, 1), top_ps=zeros(requests), top_ks=zeros(requests),
        min_ps=zeros(requests), is_all_greedy=not sampled, is_any_greedy=True,
        need_top_p_sampling=sampled, need_top_k_sampling=sampled, need_min_p_sampling=sampled,
        vocab_size=VOCABULARY, device=DEVICE,
    )  # fmt: skip
    sampling = SimpleNamespace(
        presence_penalty=0, frequency_penalty=0, repetition_penalty=1, min_new_tokens=0
    )
    asked = SimpleNamespace(sampling_params=sampling, lora_id=None, rid="1", token_type_ids=None)
    batch = ScheduleBatch(
        reqs=[asked] * requests, req_to_token_pool=worker.req_to_token_pool, device=DEVICE,
        tree_cache=SimpleNamespace(page_size=1),
        token_to_kv_pool_allocator=worker.token_to_kv_pool_allocator, enable_overlap=True,
        model_config=worker.target_worker.model_runner.model_config,
    )  # fmt: skip
    batch.forward_mode, batch.sampling_info, batch.spec_algorithm = ForwardMode.DECODE, info, EAGLE3
    batch.req_pool_indices, batch.seq_lens = zeros(requests), zeros(requests)
    batch.orig_seq_lens = zeros(requests, dtype=torch.int32)
    batch.spec_info = EagleDraftInput(
        topk_p=zeros(requests, topk, dtype=torch.float32), topk_index=zeros(requests, topk),
        hidden_states=zeros(requests, HIDDEN, dtype=torch.bfloat16), bonus_tokens=zeros(requests),
    )  # fmt: skip
    batch.spec_info.future_indices = batch.req_pool_indices
    track(batch)
    return batch
