"""The shape of Qwen3-VL-8B."""

from engine.learner.costs import ModelShape

EIGHT = ModelShape(
    layers=36,
    hidden=4096,
    intermediate=12288,
    heads=32,
    kv_heads=8,
    head_dim=128,
    vocabulary=151936,
    vision_layers=27,
    vision_hidden=1152,
    vision_intermediate=4304,
    language_params=6_946_075_648,
    embedding_params=151936 * 4096,
    head_params=151936 * 4096,
    vision_params=576_388_336,
)
