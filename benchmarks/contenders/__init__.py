"""Rivals of the networks, which the benchmarks train beside them."""
