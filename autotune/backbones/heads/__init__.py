"""Heads: the layer that produces the logits, and new ones for other classes."""
