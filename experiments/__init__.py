"""Readable scripts that measure what the library buys, on real data."""
