"""The whole engine in compiled form: arrays for objects, a heap for SimPy's queue, the same order of events and of every addition.

The plain path (replica.py, batch.py, simulate.py) says what is meant; functions here carry the names of what they stand for.
"""
