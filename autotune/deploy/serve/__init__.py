"""A small server for many tasks of one backbone."""
