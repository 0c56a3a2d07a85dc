"""Clients for the demo and for load."""
