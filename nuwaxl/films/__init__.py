"""A film whose frames are made when they are asked for, whatever model makes them."""
