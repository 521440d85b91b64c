"""Learned policy: scores that predict which choices of which units are worth their cost."""
