"""Cached prefix: the frozen beginning of the network (the trunk) runs once for all trials."""
