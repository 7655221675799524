from sglang_qwen3next_eagle3.train import provenance


def test_a_head_s_record_says_on_what_it_was_trained_and_how_it_went() -> None:
    record = {
        "config": {
            "model": {"torch_dtype": "bfloat16", "target_model_path": "/t"},
            "data": {"max_length": 512, "hidden_states_path": "/f"},
            "training": {"learning_rate": 1e-4, "ttt_length": 7},
            "deployment": {"trainer": {"nproc_per_node": 2}},
        },
        "aux_layers": "output:3,7,11", "commit": "abc", "versions": {"torch": "2"},
        "recipe": {"name": "card", "description": "d"}, "target": "/models/target",
        "data": {"train": {"data_sha256": "s"}}, "hardware": "2 x H200", "seconds": 3.5,
    }  # fmt: skip
    found = provenance.describe(record, {"name": "head-step3", "step": 3, "metrics": {}})
    assert found["target"] == "target"
    assert found["training"]["learning_rate"] == 1e-4
    assert found["training"]["processes"] == 2
    assert found["training"]["finished"] is None
    assert found["made_with"]["commit"] == "abc"
    assert found["data"]["train"]["data_sha256"] == "s"
    assert found["checkpoint"]["step"] == 3
    assert "/" not in str(found)
