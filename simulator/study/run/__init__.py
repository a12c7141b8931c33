"""A scenario simulated: from its YAML to rows, frontiers and warnings."""
