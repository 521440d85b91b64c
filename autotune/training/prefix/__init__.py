"""The trunk: what is frozen runs once for all trials."""
