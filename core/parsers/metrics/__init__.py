"""What the metrics pages of model servers say, by the kind of server."""
