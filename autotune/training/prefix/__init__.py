"""Cached prefix: the frozen beginning of the network runs once for all trials."""
