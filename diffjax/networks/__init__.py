"""Networks in Flax linen: the U-Nets of EDM, and the Inception network."""
