"""The tests, as one package: what several share is imported as `tests.engine.worlds`."""
