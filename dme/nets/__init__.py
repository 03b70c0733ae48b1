"""Networks, their checkpoints, and where checkpoints come from."""
