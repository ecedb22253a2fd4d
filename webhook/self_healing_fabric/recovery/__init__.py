"""Recovery: what is tried on which platform, and the proof that it healed. Never whether it may."""
