"""The question: scenarios, sweeps, metrics, frontiers, validation."""
