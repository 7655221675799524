"""summing_rank.py FOLDER RANKS TURNS RANK

One of the ranks that add up over memory which processes share, in Triton's interpreter: a file for
each rank's space in FOLDER. What every turn's sum was goes to FOLDER/RANK.pt.
"""

import sys
import time
from pathlib import Path

import torch

from sglang_qwen3next_eagle3.overlay.fast.device import MAX_ROWS
from sglang_qwen3next_eagle3.overlay.fast.kernels.peer_sum import Peers, space, sum_norm_quantize

ROWS, WIDTH = 2, 128


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def main() -> None:
    folder, ranks, turns, rank = Path(sys.argv[1]), *map(int, sys.argv[2:])
    size = space(ranks, WIDTH)
    # A file that is made longer has zeros; whoever comes first makes it.
    spaces = [
        torch.from_file(str(folder / f"space{one}"), shared=True, size=size, dtype=torch.uint8)
        for one in range(ranks)
    ]
    addresses = torch.tensor([one.data_ptr() for one in spaces])
    peers = Peers(addresses, torch.zeros(MAX_ROWS, dtype=torch.int32), rank, WIDTH)
    residual, weight, sums = random(ROWS, WIDTH, seed=99), random(WIDTH), []
    for turn in range(turns):
        if turn % 2 and turn // 2 % ranks == rank:
            time.sleep(0.05)
        part = random(ROWS, WIDTH, seed=ranks * turn + rank)
        sums.append(sum_norm_quantize(peers, part, residual, weight, 1e-6).residual)
    torch.save(sums, folder / f"{rank}.pt")


if __name__ == "__main__":
    main()
