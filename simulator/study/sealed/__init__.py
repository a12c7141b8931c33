"""`dsim predict` and `dsim score`: what will be measured, written down before it is, and how far off it was."""
