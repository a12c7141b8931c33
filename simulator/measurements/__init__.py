"""What we know: step costs and acceptance, each with its provenance."""
