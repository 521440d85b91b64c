"""Several tasks on one backbone, with the computation they have in common done once."""
