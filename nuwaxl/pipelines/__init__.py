"""The film as a user asks for it: by networks of ours, or by pretrained models."""
