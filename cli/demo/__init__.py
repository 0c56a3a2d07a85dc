"""What only demonstrates: the demo, simulated servers, their clients."""
