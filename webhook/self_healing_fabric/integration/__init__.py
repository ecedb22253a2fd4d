"""The fabric as one thing that a program starts, asks and stops."""
