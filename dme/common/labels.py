"""The label that every mask may hold beside its classes."""

IGNORE = 255  # label of pixels whose truth is unknown
