"""Files that engines and load generators write, read into plain objects and written back: one module for each family."""
