"""HTTP server for several tasks of one backbone."""
