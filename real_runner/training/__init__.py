"""Training of small drafters for a target at hand: features of its texts, the drafters' forward with gradients, losses, checkpoints."""
