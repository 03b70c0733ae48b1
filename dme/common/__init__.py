"""What every other folder stands on: errors, files, processes, provenance."""
