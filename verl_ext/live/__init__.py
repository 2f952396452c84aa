"""A run while it goes on, and right after: its live line, and what its log says."""
