"""A batch of segments from noise to latents: the settings, the prompts and the sampling loop."""
