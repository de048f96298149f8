"""Where finished latents are kept: in memory, on a disk or in a bucket."""
