"""Patterns of layer names: one language for overrides and for what streaming steps skip."""

import pytest

from llmopt.checkpoint.layer_patterns import compile_layers, compile_parts


@pytest.mark.parametrize(
    ("pattern", "layer", "matches"),
    [
        ("lm_head", "lm_head", True),
        ("lm_*", "lm_head", True),
        ("mlp.down_proj", "model.layers.0.mlp.down_proj", True),
        ("down_proj", "model.layers.0.mlp.down_proj", True),
        ("n_proj", "model.layers.0.mlp.down_proj", False),
        ("model.layers.1", "model.layers.1.mlp.down_proj", True),
        ("experts", "model.layers.1.mlp.experts.3.up_proj", True),
        ("experts.3", "model.layers.1.mlp.experts.31.up_proj", False),
        ("model.layers.1", "model.layers.11.mlp.down_proj", False),
        ("layers.[02].mlp", "model.layers.2.mlp.up_proj", True),
        ("model.layers.*.self_attn.*", "model.layers.3.self_attn.q_proj", True),
        (r"re:model\.layers\.[02]\.mlp\..*", "model.layers.2.mlp.up_proj", True),
        (r"re:model\.layers\.[02]\.mlp", "model.layers.2.mlp.up_proj", False),
        ("re:layers.2.*", "model.layers.2.mlp.up_proj", False),
        ("re:lm_head|.*up_proj", "model.layers.2.mlp.up_proj", True),
    ],
)
def test_a_glob_may_name_parts_and_a_regex_names_the_whole(
    pattern: str, layer: str, matches: bool
) -> None:
    assert (compile_parts(pattern).fullmatch(layer) is not None) is matches


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("*.mlp.up_proj", True),
        ("up_proj", False),
        ("model.layers.2", False),
        ("re:model.layers.2", False),
        (r"re:.*\.2\..*", True),
    ],
)
def test_overrides_name_whole_layers(pattern: str, matches: bool) -> None:
    assert (compile_layers(pattern).fullmatch("model.layers.2.mlp.up_proj") is not None) is matches


@pytest.mark.parametrize(
    ("pattern", "message"), [("", "is empty"), ("re:", "is empty"), ("re:(", "no regular exp")]
)
def test_what_is_no_pattern_is_refused(pattern: str, message: str) -> None:
    for compile_pattern in (compile_layers, compile_parts):
        with pytest.raises(ValueError, match=message):
            compile_pattern(pattern)
