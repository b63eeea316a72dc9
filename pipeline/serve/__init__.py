"""Readers of features: many keys and views in one round trip, as of any time."""
