"""Words that users type: choices of command lines, known without NumPy and PyTorch."""

BACKBONE_NAMES = ("unet", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")
EYES = ("OD", "OS")  # right, left
IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
SCAN_SUFFIXES = (*IMAGE_SUFFIXES, ".npy", ".mat")  # of files that hold B-scans
