"""Networks in Flax linen: the U-Nets of EDM, and small ones."""
