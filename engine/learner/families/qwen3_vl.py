"""Qwen3-VL: a tower that sees whole pictures, and whose features enter the first decoder layers
too (deepstack)."""

from transformers import Qwen3VLForConditionalGeneration, Qwen3VLModel

from engine.learner.families.qwen_vl import QwenVL


class Qwen3VL(QwenVL):
    architecture = Qwen3VLForConditionalGeneration
    body = Qwen3VLModel
