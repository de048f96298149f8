"""The embedded cartoon world: actors travel through panoramas, every state known exactly.

It is unlimited reference data: any length, any frame rate, captions that are always true. It does
not know models or training.
"""

from nuwaxl.toon.assets import (
    DIRECTIONS,
    FRAME_SIZE,
    TIMES_OF_DAY,
    Actor,
    Background,
    actors,
    backgrounds,
)
from nuwaxl.toon.captions import (
    ATTRIBUTES,
    canonical_caption,
    caption,
    mentioned,
)
from nuwaxl.toon.known_words import unknown_words, vocabulary
from nuwaxl.toon.loose_captions import loose_caption
from nuwaxl.toon.render import (
    actor_mask,
    render_frames,
    render_frames_with_masks,
    render_with_mask,
)
from nuwaxl.toon.sampling import sample_scene, sample_story
from nuwaxl.toon.scenes import (
    ACTIONS,
    Action,
    FrameState,
    Scene,
    Story,
    actions,
    combinations,
    compatible,
    is_held_out,
)

__all__ = [
    "ACTIONS",
    "ATTRIBUTES",
    "DIRECTIONS",
    "FRAME_SIZE",
    "TIMES_OF_DAY",
    "Action",
    "Actor",
    "Background",
    "FrameState",
    "Scene",
    "Story",
    "actions",
    "actor_mask",
    "actors",
    "backgrounds",
    "canonical_caption",
    "caption",
    "combinations",
    "compatible",
    "is_held_out",
    "loose_caption",
    "mentioned",
    "render_frames",
    "render_frames_with_masks",
    "render_with_mask",
    "sample_scene",
    "sample_story",
    "unknown_words",
    "vocabulary",
]
