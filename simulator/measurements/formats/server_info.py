"""SGLang's settings, as its client copies them into a row (`server_info`). Names as in sgl-project/sglang 015c872 (srt/arg_groups/fields/spec.py)."""

from __future__ import annotations

from simulator.measurements.formats.reading import Count, Line, Part

_STEPWISE = ("EAGLE", "EAGLE3", "NEXTN", "STANDALONE")  # draft token after token: a chain, or a tree


class ServerInfo(Part):
    """What was drafted, and on how many GPUs. The tokens of a round count the anchor."""

    speculative_algorithm: Line | None = None
    speculative_num_draft_tokens: Count | None = None
    speculative_num_steps: Count | None = None
    speculative_eagle_topk: Count | None = None
    tp_size: Count | None = None
    pp_size: Count | None = None
    dp_size: Count | None = None

    @property
    def plain(self) -> bool:
        """Does it say that nothing was drafted?"""
        return "speculative_algorithm" in self.model_fields_set and self.speculative_algorithm is None

    @property
    def gpus(self) -> int:
        """Of one engine."""
        return (self.tp_size or 1) * (self.pp_size or 1)

    @property
    def drafts_trees(self) -> bool:
        """Were there several candidates for a position? Then a round verifies more tokens than it can accept."""
        steps, tokens = self.speculative_num_steps, self.speculative_num_draft_tokens
        wide = (self.speculative_eagle_topk or 1) > 1 or bool(steps and tokens and tokens > steps + 1)
        return wide and (self.speculative_algorithm or "").upper() in _STEPWISE
