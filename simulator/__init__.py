"""dsim's simulator: traffic replayed against measured costs and recorded acceptance. No torch, no GPU."""
