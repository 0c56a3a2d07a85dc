"""The standalone gateway: Envoy, told by files."""
