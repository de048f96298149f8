"""Clips for training: rendered frames, and latents encoded once and kept."""
