"""Compile the kernels at the seams of a cycle for sm_90, as they are launched for the published
pair. Needs no GPU. Prints their names."""

import json
from types import SimpleNamespace

import torch

from sglang_qwen3next_eagle3.overlay.seams import chain_kernels, kernels
from tests.support import compile_fast


def around_chains() -> None:
    """Of FP8 and bf16, whose logits are in bf16 or fp32, and of the head's vocabulary."""
    for batch, nodes in ((1, 4), (32, 6)):
        rows, index = batch * nodes, torch.zeros(64).long()
        lens, count = torch.ones(batch, dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
        for kind in (torch.float32, torch.bfloat16):
            logits = torch.zeros(rows, 151936, dtype=kind)
            candidates = torch.zeros(batch, nodes).long()
            predict, accepted, accept_index = chain_kernels.accept(logits, candidates)
            hidden = torch.zeros(rows, 2048, dtype=torch.bfloat16)
            chain_kernels.leave(torch.zeros(rows, 32000, dtype=kind), hidden, lens)
        chain_kernels.simulated(lens[:1], predict, accepted, accept_index, 100)
        outs = torch.zeros(4, rows + batch, dtype=torch.int32)
        chain_kernels.keep(index[:1], predict, accepted, outs)
        buffers = SimpleNamespace(
            req_pool_indices=index, seq_lens=index, extend_seq_lens=count, num_accept_tokens=count,
            num_correct_drafts=count, input_ids=index, positions=index, out_cache_loc=index,
            hidden_states=torch.zeros(64 * nodes, 6144, dtype=torch.bfloat16),
        )  # fmt: skip
        backend = SimpleNamespace(
            req_to_token=torch.zeros(64, 8192, dtype=torch.int32), qo_indptr=count,
            kv_indptr=count, cuda_graph_kv_indices=torch.zeros(9000).long(),
        )  # fmt: skip
        of = torch.zeros(batch).long(), torch.zeros(batch).long(), lens, predict
        slots = torch.zeros(rows).long()
        chain_kernels.prepare(backend, buffers, batch, 1, *of, slots, buffers.hidden_states[:rows])
        rows_of, one = (predict[:batch], index[:batch], slots[:batch]), buffers.hidden_states
        kept = one.new_zeros(64 * 8, 6144), torch.zeros(64 * 8, 3).long()
        for at in (count[:1], count[1:2]):
            chain_kernels.put_off(slots[:batch], at, 8, rows_of, one[:batch], *kept)
    # Wherever a recording holds the number of the cycle, it is the same kernel.
    assert len(chain_kernels._put_off.device_caches[0][0]) == 1


def main() -> None:
    compile_fast.only_compile()
    for batch, depth, draft_tokens in ((1, 4, 4), (1, 4, 8), (32, 4, 8)):
        index = torch.zeros(batch, depth, dtype=torch.int32)
        lens = torch.ones(batch, dtype=torch.int32)
        seq_lens = torch.ones(batch, dtype=torch.int64)
        for interval in (None, 256):
            kernels.commit_steps(index, lens, seq_lens, draft_tokens, interval)
        for topk in (1, 4):
            pairs = [
                (torch.zeros(batch, dtype=torch.int32), torch.zeros(64, dtype=torch.int64)),
                (torch.zeros(batch, topk), torch.zeros(64, topk)),
                (torch.zeros(batch, topk).long(), torch.zeros(64, topk).long()),
                (torch.zeros(batch, 2048).bfloat16(), torch.zeros(64, 2048).bfloat16()),
            ]
            for count in (2, 3, 4):
                kernels.scatter_rows(torch.zeros(batch).long(), pairs[:count])
        table = torch.zeros(64, 8192, dtype=torch.int32)
        spans = [7] * batch, [3] * batch
        kernels.place_slots(table, torch.zeros(batch).long(), torch.zeros(3 * batch).long(), *spans)
        # SGLang 0.5.23 keeps masks as bytes.
        for fills, masked in ((True, torch.bool), (False, torch.bool), (True, torch.uint8)):
            of = [torch.zeros(batch, dtype=torch.int32), torch.zeros(batch, 3).long()]
            of += [torch.zeros(batch).long(), torch.zeros(4096, dtype=masked)]
            kernels.chain(*of, fills=fills)
        for kind in (torch.int32, torch.int64):
            of = [
                torch.zeros(64, 8192, dtype=torch.int32),
                torch.zeros(batch).long(),
                torch.ones(batch, dtype=kind),
                draft_tokens,
                torch.zeros(65).long(),
                torch.zeros(65, dtype=torch.int32),
                torch.zeros(9000).long(),
            ]
            kernels.attention_metadata(*of, mask_indptr=torch.zeros(65).long())
            kernels.attention_metadata(*of, taken=torch.zeros(batch, dtype=torch.int32))
    around_chains()
    print(json.dumps(sorted(compile_fast.compiled)))


if __name__ == "__main__":
    main()
