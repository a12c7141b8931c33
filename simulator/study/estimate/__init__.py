"""`dsim estimate`: profiles of hardware that nobody here has measured, from kernel times that others have measured."""
