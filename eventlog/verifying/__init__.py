"""Recorded decisions, each with the cluster state it was made on and what came of computing it again."""
