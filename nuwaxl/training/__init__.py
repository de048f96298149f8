"""Training of the networks: one loop, five stages."""
