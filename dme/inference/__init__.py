"""From scans to probabilities, fluid and layers."""
