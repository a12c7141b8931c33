"""Pictures of a run. They import matplotlib: callers import them lazily."""
