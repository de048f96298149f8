"""How a segment is denoised, as numbers and names that go into its key.

Knows settings, not networks or schedulers.
"""

import json
import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

SCHEDULERS = ("ddpm", "ddim", "dpmpp_2m", "unipc", "euler", "lcm")
"""Names of the samplers."""

_MAX_STEPS = 1000  # the models are trained with so many noise levels


class RoleSettings(NamedTuple):
    """What the two roles, global and local, may have different."""

    num_inference_steps: int
    guidance_scale: float


@dataclass(frozen=True)
class SamplingConfig:
    """How a segment is denoised.

    Raises:
        ValueError: a number out of its range or an unknown scheduler.
    """

    num_inference_steps: int = 10
    """Denoising steps per segment; time grows linearly with it."""
    guidance_scale: float = 3.0
    """1 turns classifier-free guidance off and halves the work."""
    guidance_rescale: float = 0.0
    """0 to 1: how far guided predictions are brought back to the unguided scale (Lin et al. 2023,
    section 3.4)."""
    negative_prompt: str = ""
    """What guidance leads away from."""
    scheduler: str = "unipc"
    """One of ddpm, ddim, dpmpp_2m, unipc, euler, lcm."""
    local_num_inference_steps: int | None = None
    """Steps below level 0, where the given ends settle much; None: half as many as at level 0."""
    local_guidance_scale: float | None = None
    """Guidance below level 0; None: 1, none, as the given ends show what the words ask for.
    Where the prompt changes it is at least `guidance_scale`."""

    def __post_init__(self) -> None:
        self._check_steps("num_inference_steps", self.num_inference_steps)
        self._check_guidance("guidance_scale", self.guidance_scale)
        if self.local_num_inference_steps is not None:
            self._check_steps("local_num_inference_steps", self.local_num_inference_steps)
        if self.local_guidance_scale is not None:
            self._check_guidance("local_guidance_scale", self.local_guidance_scale)
        if not (_is_finite(self.guidance_rescale) and 0 <= self.guidance_rescale <= 1):
            raise ValueError(
                f"`guidance_rescale` must be from 0 to 1, got {self.guidance_rescale!r}."
            )
        if not isinstance(self.negative_prompt, str):
            raise ValueError(f"`negative_prompt` must be text, got {self.negative_prompt!r}.")
        if self.scheduler not in SCHEDULERS:
            raise ValueError(
                f"`scheduler` must be one of {', '.join(SCHEDULERS)}, got {self.scheduler!r}."
            )

    def for_level(self, level: int) -> RoleSettings:
        """The settings of a level: 0 is the global role, deeper ones are local.

        Args:
            level: of the segment.
        """
        steps, guidance = self.num_inference_steps, self.guidance_scale
        if level > 0:
            half = (steps + 1) // 2
            told = self.local_num_inference_steps, self.local_guidance_scale
            steps, guidance = half if told[0] is None else told[0], told[1]
        return RoleSettings(steps, 1.0 if guidance is None else guidance)

    def fingerprint(self) -> str:
        """Canonical JSON of what is sampled, for the keys of segments.

        Two ways to say the same have one fingerprint: 2 and 2.0, and local settings that are left
        out or said as they follow from level 0.
        """
        local = self.for_level(1)
        settings = asdict(self) | {
            "guidance_scale": float(self.guidance_scale),
            "guidance_rescale": float(self.guidance_rescale),
            "local_num_inference_steps": local.num_inference_steps,
            "local_guidance_scale": float(local.guidance_scale),
        }
        return json.dumps(settings, sort_keys=True, separators=(",", ":"))

    @staticmethod
    def _check_steps(name: str, value: int) -> None:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not (is_whole and 1 <= value <= _MAX_STEPS):
            raise ValueError(
                f"`{name}` must be a whole number from 1 to {_MAX_STEPS}, got {value!r}; "
                "10 to 20 are usual."
            )

    @staticmethod
    def _check_guidance(name: str, value: float) -> None:
        if not (_is_finite(value) and value >= 0):
            raise ValueError(f"`{name}` must be 0 or more, got {value!r}; 1 turns guidance off.")


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
