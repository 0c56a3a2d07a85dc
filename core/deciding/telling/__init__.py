"""What people are told of a decision: why it came out so, what it rested on, and what would have changed it."""
