from llmopt.checkpoint.fused_layers import group_fused


def test_layers_that_are_loaded_as_one_stand_together() -> None:
    names = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.k_proj",
        "model.layers.0.self_attn.v_proj",
        "model.layers.0.self_attn.o_proj",
        "model.layers.0.mlp.gate_proj",
        "model.layers.0.mlp.up_proj",
        "model.layers.0.mlp.down_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.experts.0.gate_proj",
        "model.layers.1.mlp.experts.0.down_proj",
        "model.layers.1.mlp.experts.1.gate_proj",
        "lm_head",
    ]
    assert group_fused(names) == [
        tuple(names[:3]), (names[3],), tuple(names[4:6]), (names[6],), (names[7],),
        tuple(names[8:11]), ("lm_head",),
    ]  # fmt: skip
