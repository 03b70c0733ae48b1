"""Correcting scans in a browser: what is annotated, how it travels, and the server."""
