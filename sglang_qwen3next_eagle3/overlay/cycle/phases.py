"""The parts of a cycle, as functions of SGLang; data, without SGLang.

A part's own time is what it takes without the parts within it, so that all of them and what is left
of the loop are the cycle.
"""

from dataclasses import dataclass
from typing import Final

_SCHEDULER: Final = "sglang.srt.managers.scheduler:Scheduler"
_RECEIVER: Final = (
    "sglang.srt.managers.scheduler_components.request_receiver:SchedulerRequestReceiver"
)
_RELAY: Final = "sglang.srt.managers.overlap_utils:FutureMap"
_WORKER: Final = "sglang.srt.speculative.eagle_worker_v2"
_COMMON: Final = "sglang.srt.speculative.eagle_worker_common"
_TRITON: Final = "sglang.srt.layers.attention.triton_backend"
_RUNNERS: Final = "sglang.srt.speculative.eagle_draft"

ENTRY: Final = f"{_SCHEDULER}.run_event_loop"
"""What a scheduler's process does once it is ready."""
LOOP: Final = "loop"
"""What is left of a cycle: the scheduler's loop itself."""
GPU: Final = "wait for the GPU"
LAUNCH: Final = "graph launch"
GRAPH_OF: Final = "qwen3next_eagle3_phase"
"""An attribute of a graph that is replayed outside of its phase: the phase's name; empty for a
small one between those of phases."""
JOINED: Final = "joined graph"
"""Of a graph that holds those of several phases."""


@dataclass(frozen=True)
class Phase:
    """name: as in a report. target: whose time it is. why: for `patches verify`."""

    name: str
    target: str
    why: str


RECEIVE: Final = Phase(
    "receive requests", f"{_RECEIVER}.recv_requests", "A cycle begins with it; asks the tokenizer."
)
RUN: Final = Phase(
    "run batch", f"{_SCHEDULER}.run_batch", "What surrounds the worker; names the batch."
)
PHASES: Final = (
    RECEIVE,
    Phase(
        "request broadcast",
        f"{_RECEIVER}._broadcast_reqs_across_ranks",
        "What the first rank received goes to all.",
    ),
    Phase(
        "take requests in",
        f"{_SCHEDULER}.process_input_requests",
        "Requests are taken into the queue.",
    ),
    Phase("schedule", f"{_SCHEDULER}.get_next_batch_to_run", "The next batch is chosen."),
    Phase(
        "decode preparation",
        "sglang.srt.managers.schedule_batch:ScheduleBatch.prepare_for_decode",
        "Memory for the batch's next tokens.",
    ),
    RUN,
    Phase("lengths", f"{_RELAY}.resolve_seq_lens_cpu", "Lengths that the last cycle came to."),
    Phase(
        "relay",
        "sglang.srt.managers.scheduler:resolve_forward_inputs",
        "Tokens and states that the last cycle left.",
    ),
    Phase(
        "worker",
        f"{_WORKER}:EAGLEWorkerV2.forward_batch_generation",
        "What surrounds draft, verify and draft extend.",
    ),
    Phase("draft", f"{_WORKER}:EagleDraftWorker.draft", "What surrounds drafting."),
    Phase("draft preparation", f"{_WORKER}:prepare_for_draft", "The draft's inputs."),
    Phase(
        "draft graph",
        f"{_RUNNERS}_cuda_graph_runner:EAGLEDraftCudaGraphRunner.execute",
        "The draft's steps as a graph: buffers, metadata, its outputs.",
    ),
    Phase(
        "draft steps",
        f"{_WORKER}:EagleDraftWorker.draft_forward",
        "The draft's steps without a graph.",
    ),
    Phase("tree", f"{_WORKER}:build_eagle_verify_input", "The tree, and its mask."),
    Phase("verify", f"{_WORKER}:EAGLEWorkerV2.verify", "What surrounds verification."),
    Phase("verify preparation", f"{_COMMON}:eagle_prepare_for_verify", "The target's inputs."),
    Phase(
        "verify graph",
        "sglang.srt.managers.tp_worker:TpModelWorker.forward_batch_generation",
        "The target's pass; without speculation with its preparation and sampling.",
    ),
    Phase("buffers", (
        "sglang.srt.model_executor.runner.decode_cuda_graph_runner:DecodeCudaGraphRunner.load_batch"
    ), "A batch is copied into a graph's buffers."),
    Phase("metadata", (
        "sglang.srt.layers.attention.hybrid_linear_attn_backend:"
        "HybridLinearAttnBackend.init_forward_metadata_out_graph"
    ), "What the target's attention and GDN read besides the batch."),
    Phase("metadata", f"{_TRITON}:TritonAttnBackend.init_forward_metadata_out_graph", (
        "What attention reads besides the batch."
    )),
    Phase("metadata", f"{_TRITON}:TritonMultiStepDraftBackend.init_forward_metadata_out_graph", (
        "What the draft's steps read besides the batch."
    )),
    Phase("sampling", f"{_COMMON}:eagle_sample", "Which drafts the target accepts."),
    Phase(
        "commit",
        f"{_COMMON}:commit_mamba_states_after_verify",
        "The states of what was accepted become the requests'.",
    ),
    Phase("publish", f"{_RELAY}.publish", "The new lengths, for the next cycle."),
    Phase(
        "draft extend",
        f"{_WORKER}:EagleDraftWorker._draft_extend_for_decode",
        "What surrounds the draft's pass over what was accepted.",
    ),
    Phase("draft extend preparation", f"{_WORKER}:prepare_for_draft_extend", "Its inputs."),
    Phase(
        "draft extend graph",
        f"{_RUNNERS}_extend_cuda_graph_runner:EAGLEDraftExtendCudaGraphRunner.execute",
        "That pass as a graph.",
    ),
    Phase("stash", f"{_RELAY}.stash", "Tokens and states for the next cycle."),
    Phase(
        "copies to the host",
        "sglang.srt.managers.utils:GenerationBatchResult.copy_to_cpu",
        "What came out begins to be copied.",
    ),
    Phase(
        "result processing",
        f"{_SCHEDULER}.process_batch_result",
        "What the cycle before gave is handed out.",
    ),
    Phase("output", (
        "sglang.srt.managers.scheduler_components.output_streamer:"
        "SchedulerOutputStreamer.stream_output"
    ), "Tokens go to the detokenizer."),
)  # fmt: skip
TORCH: Final = (
    Phase(GPU, "torch.cuda.streams:Event.synchronize", "Waits for an event."),
    Phase(GPU, "torch.cuda.streams:Stream.synchronize", "Waits for a stream."),
    Phase(LAUNCH, "torch.cuda.graphs:CUDAGraph.replay", "A graph is handed to the GPU."),
)
"""Of torch, within those of SGLang."""
NAMES: Final = tuple(dict.fromkeys(phase.name for phase in (*PHASES, *TORCH)))
"""By their code in a recording."""
