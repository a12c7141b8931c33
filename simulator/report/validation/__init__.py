"""Validation shown: results beside what was published or measured, docs/validation.md, an engine's runs."""
