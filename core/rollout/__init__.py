"""Moving weight between the pools of a route."""
