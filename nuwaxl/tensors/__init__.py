"""What holds for any tensor: where to compute it, what it is known by, its values in 8 bits."""
