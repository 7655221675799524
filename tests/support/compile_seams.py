"""Compile the kernels at the seams of a cycle for sm_90, as they are launched for the published
pair. Needs no GPU. Prints their names."""

import json

import torch

from sglang_qwen3next_eagle3.overlay.seams import kernels
from tests.support import compile_fast


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
    print(json.dumps(sorted(compile_fast.compiled)))


if __name__ == "__main__":
    main()
