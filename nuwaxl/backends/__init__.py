"""Pretrained pipelines as segment models in pixel space.

`catalogue` says which there are and what they can do, without loading any of them.
"""
