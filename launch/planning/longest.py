"""The longest reply with its prompt, in tokens. A learner computes it at once, however small
`learner.tokens_per_micro_batch` is: nothing of a rollout is cut.

A reply has `max_new_tokens` at most. A prompt is taken to have the text of `work.PROMPT_TOKENS`,
its picture, and all that it quotes of other replies at their longest:

    coder, solver   the proposal, max_new_tokens of the proposer
    players, voter  the clues, as long as parsers let them pass; players their own notes as well,
                    max_new_tokens in each round before the last

No server takes more than its `context_length`, unless `extra_args` say else. Of games that we do
not know nothing else is known.
"""

import math
from collections.abc import Collection

from engine.learner.base_model import read_json
from launch.config import RootConfig, settings_of, streams_of
from launch.planning.models import picture_of
from launch.planning.work import PROMPT_TOKENS
from launch.recipe import RecipeSettings
from roles.mm_zero.config import MMZeroConfig
from roles.vision_zero.config import VOTER, VisionZeroConfig
from roles.vision_zero.parsing import MAX_CHARS

CHARS_PER_TOKEN = 4
OF_LENGTH = ("--context-length", "--allow-auto-truncate")
"""Arguments of a server with which its `context_length` is not the last word."""


def longest_row_of(config: RootConfig, policies: Collection[str]) -> int:
    """Of a group that trains `policies`, whose pictures are as the base model's folder says."""
    base = config.model.base
    picture_tokens, _ = picture_of(base, read_json(base / "config.json"), config.render.side)
    return max(longest_rows(config, picture_tokens)[policy] for policy in policies)


def longest_rows(config: RootConfig, picture_tokens: int) -> dict[str, int]:
    """{policy: tokens of the longest reply with its prompt}. `picture_tokens`: of one picture."""
    servers = config.layout.servers
    context = max(host.context_length for host in servers)
    is_told_else = any(arg.startswith(OF_LENGTH) for host in servers for arg in host.extra_args)
    most = math.inf if is_told_else else context
    cast, found = streams_of(config), dict[str, int]()
    for cfg in settings_of(config).values():
        quoted = _quoted(cfg)
        for stream in cfg.policies():
            row = context
            if stream in quoted:
                pictures = 0 if stream in ("proposer", "coder") else picture_tokens
                prompt = PROMPT_TOKENS[stream] + pictures + quoted[stream]
                row = int(min(most, prompt + cfg.params(stream).max_new_tokens))
            found[cast[stream]] = max(row, found.get(cast[stream], 0))
    return found


def _quoted(cfg: RecipeSettings) -> dict[str, int]:
    """{stream: tokens of other replies in its longest prompt}; nothing for games that we do not
    know."""
    if isinstance(cfg, MMZeroConfig):
        proposal = cfg.proposer.max_new_tokens
        return {"proposer": 0, "coder": proposal, "solver": proposal}
    if isinstance(cfg, VisionZeroConfig):
        most = cfg.clue.max_new_tokens
        clue = most if cfg.rules == "release" else min(most, MAX_CHARS // CHARS_PER_TOKEN)
        clues, notes = cfg.num_players * cfg.num_rounds * clue, (cfg.num_rounds - 1) * most
        return {"civilian": clues + notes, "spy": clues + notes, VOTER: clues}
    return {}
