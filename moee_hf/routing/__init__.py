"""Routing that a person can look at: why texts are alike, and what the experts read."""
