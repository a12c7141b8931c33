"""Tasks about one question (a scenario or a plan), run on this machine's cores or on a Ray cluster, and the store of those that are done."""
