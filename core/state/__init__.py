"""What is known when a decision is made: the cluster state and the traffic state."""
