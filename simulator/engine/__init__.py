"""The run: replicas as SimPy processes that step through the traffic."""
