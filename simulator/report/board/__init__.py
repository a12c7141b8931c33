"""Sealed predictions shown: a seal, a score, and the board of all of them."""
