"""From a load and a promise to replicas, GPUs and money: the plan's question, its search and its answer."""
