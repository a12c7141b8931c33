"""DeepSeek-V4 with the DSpark drafter in its checkpoint: released storage, layers over caches that need no rollback, one layer at a time."""
