"""Train the demo target on the corpus, within a time budget.

    python examples/demo-pair/train_target.py --corpus DIR --out DIR --seconds 420

Writes a checkpoint as Qwen3-Next's are on disk (bf16) and `target.json`: the figures on the
held-out text, of the weights as they were written. Prints a line of JSON every `--log` steps.
"""

import argparse
import json
import math
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from qwen3_next import CHUNK, Qwen3Next
from sizes import Sizes
from torch import Tensor

SEED = 0
WARMUP_STEPS = 100
BALANCE = 0.01
WEIGHT_DECAY = 0.05
BETAS = (0.9, 0.95)


def load_ids(path: Path) -> Tensor:
    return torch.from_numpy(np.fromfile(path, dtype=np.uint16).astype(np.int32))


def windows(ids: Tensor, count: int, length: int, generator: torch.Generator) -> Tensor:
    """[count, length + 1]: pieces from random places."""
    starts = torch.randint(0, len(ids) - length - 1, (count,), generator=generator)
    return torch.stack([ids[start : start + length + 1] for start in starts]).long()


@torch.no_grad()
def evaluate(
    model: Qwen3Next, ids: Tensor, batch: int, length: int, device: str
) -> dict[str, float]:
    """Mean next-token loss (nats) and accuracy over all whole windows of the held-out stream."""
    model.eval()
    loss = hits = count = 0.0
    for at in range(0, len(ids) - length - 1, batch * length):
        starts = range(at, min(at + batch * length, len(ids) - length - 1), length)
        piece = torch.stack([ids[s : s + length + 1] for s in starts]).long().to(device)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            logits, _ = model(piece[:, :-1])
        flat, labels = logits.float().flatten(0, 1), piece[:, 1:].flatten()
        loss += F.cross_entropy(flat, labels, reduction="sum").item()
        hits += (flat.argmax(-1) == labels).sum().item()
        count += labels.numel()
    model.train()
    return {"loss": loss / count, "accuracy": hits / count, "tokens": count}


def rate_at(step: int, progress: float, peak: float) -> float:
    """Linear warm-up, then a cosine down to nothing; progress: the share of time that is over."""
    return peak * min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * progress))


def optimizer_of(model: Qwen3Next, peak: float, device: str) -> torch.optim.AdamW:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": WEIGHT_DECAY},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=peak, betas=BETAS, fused=device == "cuda")


def train(arguments: argparse.Namespace) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("high")
    generator = torch.Generator().manual_seed(SEED)
    ids = load_ids(arguments.corpus / "train.bin")
    held_out = load_ids(arguments.corpus / "held_out.bin")
    length, batch = arguments.length, arguments.batch
    if length % CHUNK:
        raise SystemExit(f"--length must be a multiple of {CHUNK}")
    sizes = Sizes()
    model = Qwen3Next(sizes).to(device)
    optimizer = optimizer_of(model, arguments.rate, device)
    parameters = sum(p.numel() for p in model.parameters())
    print(json.dumps({"parameters": parameters, "tokens": len(ids), "device": device}), flush=True)
    started, step = time.monotonic(), 0
    while (elapsed := time.monotonic() - started) < arguments.seconds:
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, elapsed / arguments.seconds, arguments.rate)
        piece = windows(ids, batch, length, generator).to(device, non_blocking=True)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            logits, balance = model(piece[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), piece[:, 1:].flatten())
        (loss + BALANCE * balance).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % arguments.log == 0 or step == 1:
            seen, now = step * batch * length, time.monotonic() - started
            entry = {
                "step": step,
                "loss": round(loss.item(), 4),
                "balance": round(float(balance), 3),
                "norm": round(float(norm), 3),
                "tokens": seen,
                "seconds": round(now, 1),
                "tokens_per_s": round(seen / now),
            }
            print(json.dumps(entry), flush=True)
        if step % (10 * arguments.log) == 0:
            interim = evaluate(model, held_out[:200_000], batch, length, device)
            print(json.dumps({"step": step, "held_out": interim}), flush=True)
    seconds = time.monotonic() - started
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).float()
    figures: dict[str, object] = {
        "held_out": evaluate(model, held_out, batch, length, device),
        "parameters": parameters,
        "steps": step,
        "batch": [batch, length],
        "tokens": step * batch * length,
        "epochs": step * batch * length / len(ids),
        "seconds": round(seconds, 1),
        "peak_learning_rate": arguments.rate,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
    }
    write(model, sizes, figures, arguments.corpus, arguments.out)
    print(json.dumps(figures), flush=True)


def write(
    model: Qwen3Next, sizes: Sizes, figures: dict[str, object], corpus: Path, out: Path
) -> None:
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.to("cpu", torch.bfloat16) for k, v in model.checkpoint().items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    end_of_text, turn_end = sizes.vocab_size - 3, sizes.vocab_size - 1
    defaults = {"do_sample": False, "eos_token_id": [turn_end, end_of_text]}
    for name, content in (
        ("config.json", sizes.config(end_of_text, turn_end)),
        ("generation_config.json", {"bos_token_id": end_of_text, **defaults}),
        ("target.json", figures),
    ):
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(corpus / name, out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=420)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--log", type=int, default=50)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
