"""The HTTP/2 state machine under grpclib, for servers (RFC 9113)."""
