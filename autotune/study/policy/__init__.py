"""The learned policy: where, and with which choice, deltas pay."""
