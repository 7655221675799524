"""When a pass is ours: the state of the fast path in one scheduler process.

Decisions are made while CUDA graphs are captured, so they cost nothing while serving. A pass that
is not captured (prefill, a batch beyond the captured sizes) is stock's in every layer.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from sglang_qwen3next_eagle3.overlay.fast.device import MAX_ROWS, MOST_ROWS
from sglang_qwen3next_eagle3.overlay.fast.kernel_table import Kernels
from sglang_qwen3next_eagle3.overlay.fast.layers import FastLayer, SmallPass
from sglang_qwen3next_eagle3.overlay.fast.stages import PATH, Stage
from sglang_qwen3next_eagle3.overlay.fast.trials import Trial, tries

LIMITS: Mapping[Stage, int] = {
    "dense": MOST_ROWS, "moe": MOST_ROWS, "gdn": 128, "attention": 128, "lm_head": MAX_ROWS,
    "head": MAX_ROWS, "head_w8": MAX_ROWS, "allreduce": MAX_ROWS,
}  # fmt: skip
"""Rows (requests times draft tokens) up to which a stage's kernels are right."""
ROWS: Mapping[Stage, int] = {
    "dense": 32, "moe": 32, "gdn": 128, "attention": 128, "lm_head": 8, "head": 8,
    "allreduce": MAX_ROWS,
}  # fmt: skip
"""Rows up to which a stage is ours: where it was faster than stock's as both were measured on an
H200, among 1, 4, 8, 16, 32, 64 and 128 (docs/fast-path-ideas.md); of `head` the requests, or the
rows of a draft step, up to which its products, the same as those of `lm_head`, were. `allreduce`
was not measured; it is where `moe` and `dense` are ours."""

TRIED: Mapping[Stage, Trial] = {"dense": "rows", "moe": "rows"}
"""What a stage is ours with up to its limit."""


def most_rows() -> int:
    """Rows up to which any stage of a pass is ours."""
    return max(ROWS.values())


class FastPath:
    """The layers of one target with their kernels, and the pass that runs through them.

    layers: by layer id; a layer that is not there is stock's. lm_head: the module whose product is
    ours, or None.
    """

    def __init__(
        self,
        kernels: Kernels,
        layers: Mapping[int, FastLayer],
        lm_head: Any = None,
        device: str | torch.device = "cuda",
    ) -> None:
        self.kernels, self.layers, self.lm_head = kernels, dict(layers), lm_head
        self.current: SmallPass | None = None
        # Outside the graphs' memory pool, because the commit behind a graph reads it too.
        most = max(LIMITS.values())
        self._tree = torch.zeros(most * (2 + most), dtype=torch.int32, device=device)
        self._chains: dict[int, torch.Tensor] = {}
        self._verified: dict[int, SmallPass] = {}

    @property
    def stages(self) -> frozenset[Stage]:
        """The stages that are ours in some layer."""
        ours = {stage for layer in self.layers.values() for stage in layer.stages}
        ours |= {"lm_head"} if self.lm_head is not None else set()
        return frozenset(ours | ({"allreduce"} if self.kernels.peers is not None else set()))

    def most(self, stage: Stage) -> int:
        """Rows up to which a stage is ours here: some have buffers of no more."""
        trial = TRIED.get(stage)
        most = LIMITS[stage] if trial is not None and tries(trial) else ROWS[stage]
        return min(most, self.kernels.room.get(stage, most))

    def layer(self, layer_id: int) -> FastLayer | None:
        """A layer with the stages that are ours in the current pass; None: it is stock's."""
        layer = self.layers.get(layer_id)
        if self.current is None or layer is None:
            return None
        rows = self.current.requests * self.current.nodes
        ours = frozenset(stage for stage in layer.stages if rows <= self.most(stage))
        if ours == layer.stages:
            return layer
        return layer.with_stages(ours) if ours else None

    def take_logits(self) -> bool:
        """Whether the logits of the current pass, which end it, are ours.

        A prefill by SGLang's prefill graphs (its default) enters no layer, so that nobody would ask
        here whether it is ours: its logits must not find the pass that was captured last.
        """
        at, self.current = self.current, None
        if at is None or self.lm_head is None:
            return False
        return at.requests * at.nodes <= self.most("lm_head")

    def begin(self, batch: Any) -> None:
        """A pass enters the first layer: is it ours?"""
        from sglang.srt.model_executor.forward_context import get_attn_backend
        from sglang.srt.model_executor.runner import get_is_capture_mode

        self.current = None
        if get_is_capture_mode():
            backend = get_attn_backend()
            self.current = self.prepare(batch, backend)
            if self.current is not None:
                # Each state of adaptive drafting has a backend of its own, which is asked to
                # commit what was verified with it.
                backend.__dict__[PATH] = self

    def prepare(self, batch: Any, backend: Any) -> SmallPass | None:
        """The pass of a batch whose metadata the backend has, or None if it is not for us."""
        mode, nodes, verify = batch.forward_mode, 1, batch.forward_mode.is_target_verify()
        if not (mode.is_decode() or verify):
            return None
        if verify:
            from sglang.srt.speculative.eagle_info import EagleVerifyInput

            spec = batch.spec_info
            if not isinstance(spec, EagleVerifyInput) or spec.ragged_verify_layout is not None:
                return None
            nodes = spec.draft_token_num
        requests, rows = batch.batch_size, batch.input_ids.shape[0]
        if rows > most_rows() or rows != requests * nodes:
            return None
        metadata = backend.linear_attn_backend.forward_metadata
        paths = self._paths(metadata, requests, nodes)
        tree = metadata.retrieve_next_token is not None
        at = SmallPass(batch, backend, requests, nodes, verify, paths, tree)
        # Commit finds the pass by the buffer of slots, which every captured size has its own of.
        if verify and self._has("gdn") and rows <= self.most("gdn"):
            self._verified[metadata.mamba_cache_indices.data_ptr()] = at
        return at

    def end(self) -> None:
        """Forget a pass that no graph holds."""
        if self.current is not None:
            slots = self.current.backend.linear_attn_backend.forward_metadata.mamba_cache_indices
            self._verified.pop(slots.data_ptr(), None)
        self.current = None

    def verified(self, backend: Any) -> SmallPass | None:
        """The pass whose verify was ours, when the backend's latest pass was; else None."""
        slots = backend.linear_attn_backend.forward_metadata.mamba_cache_indices
        return self._verified.get(slots.data_ptr())

    def _has(self, stage: Stage) -> bool:
        return any(stage in layer.stages for layer in self.layers.values())

    def _paths(self, metadata: Any, requests: int, nodes: int) -> torch.Tensor:
        rows = requests * nodes
        if metadata.retrieve_next_token is None:
            if nodes not in self._chains:
                # In a warm-up pass, which comes before every capture.
                batch, device = max(LIMITS.values()) // nodes, self._tree.device
                self._chains[nodes] = self.kernels.chain_paths(batch, nodes, device)
            return self._chains[nodes][:rows]
        out = self._tree[: rows * (2 + nodes)].view(rows, 2 + nodes)
        self.kernels.tree_paths(metadata.retrieve_next_token, metadata.retrieve_next_sibling, out)
        return out


def forward_layer(
    path: FastPath,
    layer_id: int,
    original: Callable[..., Any],
    arguments: Mapping[str, Any],
) -> Any:
    """A layer's forward, ours or stock's."""
    if layer_id == 0:
        path.begin(arguments["forward_batch"])
    fast = path.layer(layer_id)
    if path.current is None or fast is None:
        return original()
    captured = arguments.get("captured_last_layer_outputs")
    left = fast.forward(path.current, *fast.boundaries.taken(arguments), captured)
    return fast.boundaries.returned(*left)


def commit(
    path: FastPath,
    original: Callable[..., Any],
    backend: Any,
    last_correct_step_indices: torch.Tensor,
    mamba_track_indices: torch.Tensor | None,
    mamba_steps_to_track: torch.Tensor | None,
    **others: Any,
) -> Any:
    """The states of the accepted path into the pool, by whoever ran the verify."""
    at = path.verified(backend)
    if at is None:
        return original(
            backend,
            last_correct_step_indices=last_correct_step_indices,
            mamba_track_indices=mamba_track_indices,
            mamba_steps_to_track=mamba_steps_to_track,
            **others,
        )
    linear = backend.linear_attn_backend
    requests = last_correct_step_indices.shape[0]
    path.kernels.gdn_commit(
        at,
        linear.req_to_token_pool.mamba_pool.mamba_cache,
        linear.forward_metadata.mamba_cache_indices[:requests],
        last_correct_step_indices,
        mamba_track_indices,
        mamba_steps_to_track,
    )
    return None
