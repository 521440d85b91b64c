"""Many tasks on one backbone: what their networks have in common is computed once."""
