"""Profiles from what people have, and back: engines' files, a live server, telemetry, fits."""
