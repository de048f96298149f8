"""What is to be run for a film, and in what order: the keyframe tree, its jobs and the algorithm.

Begin with `coarse_to_fine`. Its plan (`timeline`, `storyline`) needs the standard library alone.
"""
