"""Stock's metadata of a verify says by its links whether the drafts are trees: the fast path takes
drafts without links for chains (`overlay/fast/dispatch.py`)."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

REQUESTS, NODES = 2, 4
LINKS = ("retrieve_next_token", "retrieve_next_sibling", "retrieve_parent_token")


def stocks_backend(topk: int | None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The metadata's part of what serves the Gated DeltaNet, of a server with such drafts; None:
    without any."""
    from sglang.srt.layers.attention import hybrid_linear_attn_backend as stock
    from sglang.srt.layers.attention.linear.gdn_backend import GDNAttnBackend

    # Where 0.5.23 looks instead of in the arguments.
    for name in ("get_spec", "get_memory"):
        if hasattr(stock, name):
            said = SimpleNamespace(speculative_eagle_topk=topk, enable_unified_memory=False)
            monkeypatch.setattr(stock, name, lambda said=said: said)
    pool = SimpleNamespace(
        get_mamba_indices=lambda requests: requests.to(torch.int32),
        translate_mamba_indices=lambda indices: indices,
    )
    arguments = SimpleNamespace(
        speculative_eagle_topk=topk, enable_unified_memory=False, enable_mis=False
    )
    runner = SimpleNamespace(
        device="cpu",
        server_args=arguments,
        is_draft_worker=False,
        req_to_token_pool=pool,
        token_to_kv_pool=None,
    )
    # Of Qwen3-Next's own backend, without the kernels that it chooses for a GPU.
    assert issubclass(GDNAttnBackend, stock.MambaAttnBackendBase)
    backend = stock.MambaAttnBackendBase(runner)
    backend.init_cuda_graph_state(REQUESTS, REQUESTS * NODES)
    return backend


def batch(verify: bool, links: bool) -> Any:
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch, ForwardMode

    drafted = torch.arange(REQUESTS * NODES).view(REQUESTS, NODES) if links else None
    drafts: Any = SimpleNamespace(
        draft_token_num=NODES,
        ragged_verify_layout=None,
        retrieve_next_token=drafted,
        retrieve_next_sibling=drafted,
    )
    rows, lengths = REQUESTS * (NODES if verify else 1), torch.full((REQUESTS,), 9)
    return ForwardBatch(
        forward_mode=ForwardMode.TARGET_VERIFY if verify else ForwardMode.DECODE,
        batch_size=REQUESTS,
        input_ids=torch.zeros(rows, dtype=torch.int64),
        req_pool_indices=torch.arange(1, 1 + REQUESTS),
        seq_lens=lengths,
        seq_lens_cpu=lengths,
        seq_lens_sum=int(lengths.sum()),
        out_cache_loc=torch.arange(rows),
        spec_info=drafts if verify else None,
    )


def linked(backend: Any) -> set[bool]:
    return {getattr(backend.forward_metadata, name) is not None for name in LINKS}


@pytest.mark.parametrize("topk", [None, 1, 2, 8])
@pytest.mark.parametrize("when", ["capture", "replay", "without a graph"])
def test_drafts_have_links_where_they_are_trees(
    monkeypatch: pytest.MonkeyPatch, topk: int | None, when: str
) -> None:
    backend = stocks_backend(topk, monkeypatch)

    def begin(verify: bool) -> Any:
        # What is captured was not drafted.
        given = batch(verify, links=when != "capture")
        if when == "without a graph":
            backend.init_forward_metadata(given)
        else:
            backend.init_forward_metadata_out_graph(given, in_capture=when == "capture")
        return given

    given = begin(verify=True)
    trees = (topk or 0) > 1
    assert linked(backend) == {trees}
    if trees and when != "capture":
        found = backend.forward_metadata
        assert found.retrieve_next_token.tolist() == given.spec_info.retrieve_next_token.tolist()
    begin(verify=False)
    assert linked(backend) == {False}
