"""Pictures of a profile. They import matplotlib: callers import them lazily."""
