"""What we choose: how many drafted tokens to verify, who is in the step, which replica."""
