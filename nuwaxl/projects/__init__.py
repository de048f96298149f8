"""A film in a folder: what it is now, its history, and what is still to be run."""
