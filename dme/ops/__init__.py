"""Custom operators: one schema each, a CPU implementation and a Triton kernel, imported on CUDA only."""
