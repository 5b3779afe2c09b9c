"""Qwen2.5-VL: most layers of its tower see windows of a picture only.

MiMo-VL is this architecture with another decoder (36 layers of 4096, MiMo-7B's): all that differs
is in its folder, config, weights and prompt template; the code is the same.
"""

from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLModel

from engine.learner.families.qwen_vl import QwenVL, QwenVLPolicy


class Qwen2_5VLPolicy(QwenVLPolicy):
    published_prefixes = (("model.language_model.", "model."), ("model.visual.", "visual."))


class Qwen2_5VL(QwenVL):
    architecture = Qwen2_5_VLForConditionalGeneration
    body = Qwen2_5_VLModel
    policy = Qwen2_5VLPolicy

    def patch_pairs(self, height: int, width: int) -> int:
        """The mean over layers with windows and those that see the whole picture.

        A picture is cut into windows from its upper left corner on; the last ones of a row or
        column are what remains. Pairs add up over windows: sum (a b)^2 = sum a^2 sum b^2.
        """
        vision = self._vision
        # In patches, of whole visual tokens.
        side = vision.window_size // self._merge // vision.patch_size * self._merge
        rows, columns = (size // side * side**2 + (size % side) ** 2 for size in (height, width))
        whole = len(set(vision.fullatt_block_indexes) & set(range(vision.depth)))
        full, windows = (height * width) ** 2, rows * columns
        return (whole * full + (vision.depth - whole) * windows) // vision.depth
