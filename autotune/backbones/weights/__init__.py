"""Weights of a network from files of other programs."""
