"""How far off dsim is: published tables, recorded runs, the real engine."""
