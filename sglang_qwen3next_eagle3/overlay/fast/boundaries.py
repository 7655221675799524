"""Between two layers: what one leaves and the next one takes, which differs between releases.

To our layers it is a pair everywhere: (hidden, residual), both [T, D] bf16, where `hidden` is still
to be added to the stream `residual`. Which of the two ways SGLang has, `variants.boundaries` says.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from sglang_qwen3next_eagle3.overlay.fast import ranks

Left = tuple[Any, torch.Tensor]
"""(hidden, residual). hidden is [T, D], or what SGLang has in its place where the sum over ranks is
left to whoever takes it."""
Taken = tuple[Any, torch.Tensor | None]
"""The same; there is no residual where nothing was left yet, in front of the first layer."""


class Boundaries(Protocol):
    """What stock's layers and ours hand to one another. batch: SGLang's `ForwardBatch`.

    parts: whether a layer of ours may leave its sum over ranks to the next one.
    """

    parts: bool

    def taken(self, arguments: Mapping[str, Any]) -> Taken:
        """What a layer is called with, by the names of its forward's arguments."""

    def returned(self, hidden: Any, residual: torch.Tensor) -> Any:
        """What a layer's forward returns."""

    def left(self, batch: Any, hidden: torch.Tensor, residual: torch.Tensor) -> Left:
        """What a layer of ours leaves, as the next one takes it."""

    def whole(self, batch: Any, hidden: Any, residual: torch.Tensor | None) -> Taken:
        """What a layer of ours takes: added up over ranks, if that was left to it."""

    def stock_enter(
        self, batch: Any, layer: Any, hidden: Any, residual: torch.Tensor | None, captured: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(normed rows, stream) by stock, captured where the layer is."""

    def stock_leave(
        self, batch: Any, layer: Any, hidden: torch.Tensor, residual: torch.Tensor
    ) -> Left:
        """The sparse block by stock: this rank's part of what was mixed, and the stream."""


class Pairs:
    """The residual is handed from layer to layer beside the hidden states (0.5.17)."""

    parts = True

    def taken(self, arguments: Mapping[str, Any]) -> Taken:
        return arguments["hidden_states"], arguments["residual"]

    def returned(self, hidden: Any, residual: torch.Tensor) -> Any:
        return hidden, residual

    def left(self, batch: Any, hidden: torch.Tensor, residual: torch.Tensor) -> Left:
        return hidden, residual

    def whole(self, batch: Any, hidden: Any, residual: torch.Tensor | None) -> Taken:
        return ranks.whole(hidden), residual

    def stock_enter(
        self, batch: Any, layer: Any, hidden: Any, residual: torch.Tensor | None, captured: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        plain, stream = layer.layer_communicator.prepare_attn_and_capture_last_layer_outputs(
            hidden, residual, batch, captured_last_layer_outputs=captured
        )
        return plain, stream

    def stock_leave(
        self, batch: Any, layer: Any, hidden: torch.Tensor, residual: torch.Tensor
    ) -> Left:
        from sglang.srt.models import qwen3_next

        hidden, residual = qwen3_next._apply_qwen3_next_mlp(layer, hidden, residual, batch)
        return hidden, residual


class Streams:
    """The residual is in the batch, whose `ResidualStream` also knows of what is still to be added
    to it, and of the sum over ranks that this may lack (0.5.23)."""

    parts = False

    def taken(self, arguments: Mapping[str, Any]) -> Taken:
        return arguments["hidden_states"], None

    def returned(self, hidden: Any, residual: torch.Tensor) -> Any:
        return hidden

    def left(self, batch: Any, hidden: torch.Tensor, residual: torch.Tensor) -> Left:
        from sglang.srt.layers.layer_boundary.residual.add_norm import PLAIN_ADD
        from sglang.srt.layers.layer_boundary.residual.stream import ResidualStream

        hidden, stream = ResidualStream.from_handoff(hidden, residual, PLAIN_ADD)
        batch.residual_stream = stream
        return hidden, residual

    def whole(self, batch: Any, hidden: Any, residual: torch.Tensor | None) -> Taken:
        added, stream = batch.residual_stream.export(hidden)
        return added, stream

    def stock_enter(
        self, batch: Any, layer: Any, hidden: Any, residual: torch.Tensor | None, captured: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        plain = layer.attn_boundary.prepare(hidden, batch, capture_gathered=captured)
        return plain, batch.residual_stream.residual

    def stock_leave(
        self, batch: Any, layer: Any, hidden: torch.Tensor, residual: torch.Tensor
    ) -> Left:
        from sglang.srt.models import qwen3_next

        batch.residual_stream.write(residual)
        left = qwen3_next._apply_qwen3_next_mlp(layer, hidden, batch)
        return left, batch.residual_stream.residual
