"""Stock SGLang's model runner in this process: prefill and decode, with the captured streams kept.

Runs on a CPU with the CPU engine and on a GPU; no server, no scheduler, no draft worker.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sglang_qwen3next_eagle3.overlay import variants


class StreamRunner:
    """One loaded target, or one rank's shard of it. Every `capture` starts from empty caches."""

    def __init__(self, target: Path, flags: Sequence[str] = (), rank: int = 0) -> None:
        from sglang.benchmark import one_batch
        from sglang.srt.plugins import load_plugins
        from sglang.srt.server_args import PortArgs, prepare_server_args

        load_plugins()
        arguments = ["--model-path", str(target), "--disable-radix-cache", *flags]
        server_args = prepare_server_args(arguments)
        one_batch._set_envs_and_config(server_args)
        variants.publish(one_batch, server_args, rank)
        one_batch.get_tokenizer = lambda *_, **__: None
        self._batching: Any = one_batch
        self._runner, _ = one_batch.load_model(
            server_args, PortArgs.init_new(server_args), gpu_id=rank, tp_rank=rank
        )
        self.model = self._runner.torch_runner.model
        self._passes: list[torch.Tensor] = []
        self.model.model.register_forward_hook(self._keep)

    def _keep(self, _module: Any, _arguments: Any, output: Any) -> None:
        _, captured = output
        self._passes.append(torch.stack([state.float().cpu() for state in captured]))

    @torch.no_grad()
    def spread_dummy_weights(self) -> None:
        """Give `--load-format dummy` weights a size at which every layer changes the stream.

        SGLang draws them within 1e-3, where each layer's contribution is lost in bf16's rounding
        and all depths carry the same stream: nothing that is compared there means anything.
        """
        for name, parameter in self.model.named_parameters():
            if "scale" in name:
                parameter.fill_(10.0)
            elif parameter.dtype == torch.bfloat16 and "norm" not in name:
                parameter.mul_(50.0)

    @torch.no_grad()
    def capture(
        self, prompt: Sequence[int], decode_steps: int
    ) -> tuple[list[int], list[torch.Tensor]]:
        """Greedy decoding after one prompt.

        Returns:
            the tokens, and per forward pass (prefill first) the streams, [streams, T, hidden]
            float32, in the order in which SGLang captured them.
        """
        self._runner.clear()
        self._passes.clear()
        reqs = self._batching.prepare_synthetic_inputs_for_latency_test(1, len(prompt), [prompt])
        next_token, _, batch = self._runner.extend(reqs)
        tokens = next_token.tolist()
        for _ in range(decode_steps):
            next_token, _ = self._runner.decode(next_token, batch)
            tokens += next_token.tolist()
        return tokens, list(self._passes)
