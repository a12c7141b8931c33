"""dsim's measuring half: real targets and drafters on real hardware. Needs the `profile` extra (torch)."""
