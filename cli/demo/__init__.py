"""Commands that are not the product: the demo, simulated model servers, and their clients."""
