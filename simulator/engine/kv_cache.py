"""Memory for keys and values, in pages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class KvCache:
    """Pages of `page_tokens` tokens; `capacity` None where memory is not known and so no limit."""

    capacity: int | None
    page_tokens: int
    used: int = 0

    def pages(self, tokens: int) -> int:
        """Pages that `tokens` tokens occupy."""
        return -(-tokens // self.page_tokens)

    def fits(self, pages: int) -> bool:
        """Is there room for `pages` more?"""
        return self.capacity is None or self.used + pages <= self.capacity

    def take(self, pages: int) -> None:
        """Occupy pages that fit."""
        assert self.fits(pages), "took pages that do not fit"
        self.used += pages

    def give_back(self, pages: int) -> None:
        """Free pages."""
        self.used -= pages
        assert self.used >= 0, "gave back more pages than were taken"
