"""Long films measured against what is known of them: a probe, metrics, baselines, a report.

Knows the toon world's states and finished frames; not how a network is trained or sampled.
"""
