"""What one asks about a config before hardware is rented for it."""
