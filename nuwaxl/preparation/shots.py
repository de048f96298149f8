"""Where the shots of a video begin, by PySceneDetect, fed with frames that are decoded anyway.

Knows pictures and times, not files.
"""

from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode, SceneDetector
from scenedetect.common import Timecode

from nuwaxl.preparation.settings import PrepareConfig

_WIDTH = 256
"""Pixels to which frames are brought before they are compared, as PySceneDetect does itself."""
_CONTENT, _ADAPTIVE = 27.0, 3.0
"""PySceneDetect's own thresholds."""
_TIME_BASE = Fraction(1, 90_000)


class ShotDetector:
    """Collects the cuts of one video.

    Args:
        config: which detector, and how fine.
        fps: of the video, on average; its frames' own times count.
    """

    def __init__(self, config: PrepareConfig, fps: Fraction | None) -> None:
        self._detector: SceneDetector | None = None
        threshold, seconds = config.shot_threshold, float(config.min_shot)
        if config.detector == "content":
            threshold = _CONTENT if threshold is None else threshold
            self._detector = ContentDetector(threshold, seconds)
        elif config.detector == "adaptive":
            threshold = _ADAPTIVE if threshold is None else threshold
            self._detector = AdaptiveDetector(threshold, seconds)
        self._fps = fps or Fraction(25)
        self._reformatter = VideoReformatter()
        self._cuts: list[FrameTimecode] = []
        self._last: FrameTimecode | None = None

    def see(self, time: Fraction, frame: av.VideoFrame) -> None:
        """Compare a frame with those before it.

        Args:
            time: seconds, rising from frame to frame.
            frame: of any size and format.
        """
        if self._detector is None:
            return
        scale = min(1.0, _WIDTH / max(frame.width, frame.height))
        small = self._reformatter.reformat(
            frame,
            width=max(1, round(frame.width * scale)),
            height=max(1, round(frame.height * scale)),
            format="bgr24",
            interpolation=Interpolation.AREA,
            threads=1,
        ).to_ndarray()
        self._last = FrameTimecode(Timecode(round(time / _TIME_BASE), _TIME_BASE), self._fps)
        self._cuts += self._detector.process_frame(self._last, np.ascontiguousarray(small))

    def cuts(self) -> list[float]:
        """Seconds at which shots after the first begin; call it once, after the last frame."""
        if self._detector is not None and self._last is not None:
            self._cuts += self._detector.post_process(self._last)
        return sorted({float(cut.seconds) for cut in self._cuts})
