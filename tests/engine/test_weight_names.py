"""Names that a learner sends against names that servers hold."""

import pytest

from engine.server_calls import Held
from engine.weight_names import Sent, fused_name, misfits

LAYER = "model.language_model.layers.0."
SENT = {
    "model.language_model.embed_tokens.weight": Sent("float32", (512, 8)),
    **{f"{LAYER}self_attn.{part}_proj.weight": Sent("float32", (8, 8)) for part in ("q", "k", "v")},
    f"{LAYER}mlp.gate_proj.weight": Sent("float32", (16, 8)),
    f"{LAYER}mlp.up_proj.weight": Sent("float32", (16, 8)),
    "model.visual.blocks.0.attn.qkv.bias": Sent("float32", (24,)),
    "model.visual.blocks.0.mlp.linear_fc1.weight": Sent("float32", (8, 8)),
}
SGLANG = {
    name: Held("0")
    for name in (
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.qkv_proj.weight",
        "model.layers.0.self_attn.rotary_emb.axis_map",
        "model.layers.0.mlp.gate_up_proj.weight",
        "visual.blocks.0.attn.qkv_proj.bias",
        "visual.blocks.0.mlp.linear_fc1.weight",
    )
}
EMBEDDED = {name: Held("0", sent.dtype, sent.shape) for name, sent in SENT.items()}
HEAD = {"lm_head.weight": Held("0")}


def test_names_of_both_servers_fit() -> None:
    assert misfits(SENT, SGLANG, tied=False) == []
    assert misfits(SENT, EMBEDDED, tied=False) == []
    assert misfits(SENT, {**EMBEDDED, **HEAD}, tied=True) == []
    assert misfits({**SENT, "lm_head.weight": Sent("float32", (512, 8))}, SGLANG, tied=True) == []


@pytest.mark.parametrize(
    "here, there",
    [
        ("model.visual.blocks.3.attn.qkv.weight", "visual.blocks.3.attn.qkv_proj.weight"),
        ("visual.blocks.3.mlp.up_proj.weight", "visual.blocks.3.mlp.gate_up_proj.weight"),
        ("model.layers.1.self_attn.k_proj.bias", "model.layers.1.self_attn.qkv_proj.bias"),
        ("model.layers.1.self_attn.o_proj.weight", "model.layers.1.self_attn.o_proj.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ],
)
def test_fused_names(here: str, there: str) -> None:
    assert fused_name(here) == there


def without(name: str) -> dict[str, Sent]:
    return {key: value for key, value in SENT.items() if key != name}


@pytest.mark.parametrize("held", [SGLANG, EMBEDDED])
@pytest.mark.parametrize("name", list(SENT))
def test_a_missing_name_is_named_also_where_it_is_part_of_a_fused_one(
    held: dict[str, Held], name: str
) -> None:
    (line,) = misfits(without(name), held, tied=True)
    assert line.startswith("the server has what the learner does not send")
    assert name in line or fused_name(name) in line


def test_an_untied_head_is_missed() -> None:
    (line,) = misfits(SENT, {**SGLANG, **HEAD}, tied=False)
    assert "lm_head.weight" in line


def test_names_that_a_server_would_skip_are_named() -> None:
    more = {f"model.extra.{i}": Sent("float32", (1,)) for i in range(8)}
    (line,) = misfits({**SENT, **more}, SGLANG, tied=True)
    assert line.startswith("the server does not know: model.extra.0, model.extra.1")
    assert line.endswith("and 2 more")


def test_shapes_and_dtypes_are_compared_where_the_server_gives_them() -> None:
    name = "model.visual.blocks.0.attn.qkv.bias"
    (line,) = misfits({**SENT, name: Sent("float32", (25,))}, EMBEDDED, tied=True)
    assert line == f"of another shape: {name} [25] for [24]"
    (line,) = misfits(SENT, {**EMBEDDED, name: Held("0", "bfloat16", (24,))}, tied=True)
    assert line == f"of a dtype that loses some: {name} float32 for bfloat16"
    assert misfits({**SENT, name: Sent("bfloat16", (24,))}, EMBEDDED, tied=True) == []
