"""Pictures from outside, and pictures to the latents that a film is made of and back."""
