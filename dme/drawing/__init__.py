"""Pictures as uint8 arrays, and PNG files of them."""
