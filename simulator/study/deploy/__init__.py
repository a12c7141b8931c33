"""What to deploy: the commands of engines that come nearest to a simulated policy."""
