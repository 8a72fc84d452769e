"""A run of faults against the real server, and a checker that compares what was promised with what came of it."""
