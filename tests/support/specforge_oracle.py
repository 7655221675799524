"""What SpecForge itself computes on a CPU, beside what this package computes; JSON on stdout.

A process of its own: SpecForge has to be imported behind `cpu_trainer.install`.
"""

import json
import sys
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.train.trainer import cpu_trainer

STEPS = 7
LENGTHS = (5, 8, 9, 40, 64)
# So few tokens that a head with random weights is right now and then.
SMALL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama", "hidden_size": 16,
    "target_hidden_size": 16, "num_aux_hidden_states": 3, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 32,
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "bias": False,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 128, "vocab_size": 9,
    "draft_vocab_size": 6, "tie_word_embeddings": False, "eagle_config": {},
}  # fmt: skip


def losses() -> dict[str, Any]:
    """Value and gradient of the reference in core/loss.py, and of the loss for CPUs."""
    import torch
    from specforge.core import loss

    torch.manual_seed(0)
    target_p = torch.randn(2, 5, 11).softmax(-1)
    mask = (torch.rand(2, 5, 1) < 0.6).int()
    found = {}
    for name, function in (("reference", loss._compute_loss), ("ours", loss.LogSoftmaxLoss.apply)):
        torch.manual_seed(1)
        logits = torch.randn(2, 5, 11, requires_grad=True)
        value = function(logits, target_p, mask)
        value.backward()
        assert logits.grad is not None
        found[name] = {"value": value.item(), "gradient": logits.grad.flatten().tolist()}
    return found


def published_head(draft_config: Path) -> dict[str, Any]:
    """Shapes of the model that SpecForge builds from a draft config, without its memory."""
    import torch
    from specforge.modeling.auto import AutoDraftModel, AutoDraftModelConfig

    config = AutoDraftModelConfig.from_file(str(draft_config))
    with torch.device("meta"):
        model = AutoDraftModel.from_config(config, torch_dtype=torch.bfloat16)
    return {
        name: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for name, tensor in model.state_dict().items()
    }


def vocabulary(mapping: Path, folder: Path) -> dict[str, Any]:
    """The maps as SpecForge's model holds them after `model.vocab_mapping_path`."""
    model = _draft(folder)
    model.load_vocab_mapping(str(mapping))
    return {"d2t": model.d2t.tolist(), "t2d": model.t2d.tolist()}


def accuracies(folder: Path) -> dict[str, Any]:
    """SpecForge's evaluation of a head with random weights, sample by sample and padded into one
    batch, beside ours of the same head as exported."""
    import torch
    from safetensors.torch import save_file
    from specforge.algorithms.eagle3.data import build_offline_collator, normalize_offline_sample
    from specforge.algorithms.eagle3.model import OnlineEagle3Model
    from specforge.eval import Evaluator
    from specforge.modeling.target.target_head import TargetHead
    from specforge.runtime.contracts import TrainBatch
    from specforge.training.strategies.base import Eagle3TrainStrategy

    from sglang_qwen3next_eagle3.head.forward import HeadModel
    from sglang_qwen3next_eagle3.train import evaluate

    torch.manual_seed(3)
    model = _draft(folder)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    kept = torch.tensor([0, 2, 3, 5, 7, 8])
    model.t2d.zero_()[kept] = True
    model.d2t.copy_(kept - torch.arange(len(kept)))
    lm_head = torch.randn(SMALL["vocab_size"], SMALL["hidden_size"])
    samples = [_sample(length) for length in LENGTHS]

    teacher = TargetHead(str(folder))
    teacher.fc.weight.data.copy_(lm_head)
    strategy = Eagle3TrainStrategy(
        OnlineEagle3Model(model, length=STEPS, attention_backend="sdpa"), target_head=teacher
    )
    normalized = [normalize_offline_sample(sample, 128) for sample in samples]
    alone = [_batch(TrainBatch, build_offline_collator()([one])) for one in normalized]
    padded = [_batch(TrainBatch, build_offline_collator()(normalized))]

    tensors = {k: v for k, v in model.state_dict().items() if "embed" not in k}
    save_file(tensors, folder / "model.safetensors")
    head = HeadModel.load(folder, model.embed_tokens.weight.data)
    ours = evaluate.score(head, lm_head, samples, STEPS)
    return {
        "alone": Evaluator().run(strategy.forward_loss, alone)["eval/per_position_acc"],
        "padded": Evaluator().run(strategy.forward_loss, padded)["eval/per_position_acc"],
        "ours": ours.accuracies,
        "positions": ours.positions,
    }


def _draft(folder: Path) -> Any:
    import torch
    from specforge.modeling.auto import AutoDraftModel, AutoDraftModelConfig

    path = folder / "config.json"
    path.write_text(json.dumps(SMALL))
    config = AutoDraftModelConfig.from_file(str(path))
    return AutoDraftModel.from_config(config, torch_dtype=torch.float32)


def _sample(length: int) -> dict[str, Any]:
    """A question and an answer in turns, its last token an answer's."""
    import torch

    mask = torch.rand(length) < 0.7
    mask[:2], mask[-3:] = False, True
    width = SMALL["hidden_size"]
    return {
        "input_ids": torch.randint(SMALL["vocab_size"], (length,)),
        "loss_mask": mask.long(),
        "hidden_state": torch.randn(1, length, width),
        "aux_hidden_state": torch.randn(1, length, 3 * width),
    }


def _batch(kind: Any, tensors: dict[str, Any]) -> Any:
    return kind(["s"], "eagle3", tensors, {"target_repr": "hidden_state"})


def main() -> None:
    cpu_trainer.install()
    folder, draft_config, mapping = map(Path, sys.argv[1:])
    found = {
        "losses": losses(),
        "published": published_head(draft_config),
        "vocabulary": vocabulary(mapping, folder),
        "accuracies": accuracies(folder),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
