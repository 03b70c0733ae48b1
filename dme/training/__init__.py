"""From scans with labels to trained networks."""
