"""Inference for several tasks on one backbone, with shared computation done once."""
