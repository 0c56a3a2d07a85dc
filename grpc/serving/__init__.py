"""gRPC for servers: calls answered in the turn of the loop in which they arrive, and grpclib for the rest."""
