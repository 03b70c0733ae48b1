"""From files to scans: readers, cache, splits, and synthetic scans."""
