"""What `predict` does with many scans: inputs, measurements, tables, a page."""
