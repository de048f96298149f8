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

_LOCAL_GUIDANCE_STOP = 0.4
"""What a run is to show is settled at its first steps; guidance at later ones adds flicker."""


class RoleSettings(NamedTuple):
    """What the two roles, global and local, may have different."""

    num_inference_steps: int
    guidance_scale: float
    guidance_stop: float = 1.0

    @property
    def guided_steps(self) -> int:
        """Steps that are guided, from the noisiest on."""
        if self.guidance_scale == 1:
            return 0
        return math.ceil(self.guidance_stop * self.num_inference_steps - 1e-9)

    @property
    def passes(self) -> int:
        """How often the network sees each frame: a guided step shows it twice."""
        return self.num_inference_steps + self.guided_steps


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
    """Guidance below level 0; None: as at level 0. Where the prompt changes it is at least
    `guidance_scale`, as long as at level 0."""
    guidance_stop: float = 1.0
    """Share of the steps, from the noisiest on, that are guided (Kynkäänniemi et al. 2024)."""
    local_guidance_stop: float | None = None
    """That share below level 0; None: 0.4, two of five, as the given ends and what is made
    of them then show what the words ask for."""

    def __post_init__(self) -> None:
        self._check_steps("num_inference_steps", self.num_inference_steps)
        self._check_guidance("guidance_scale", self.guidance_scale)
        if self.local_num_inference_steps is not None:
            self._check_steps("local_num_inference_steps", self.local_num_inference_steps)
        if self.local_guidance_scale is not None:
            self._check_guidance("local_guidance_scale", self.local_guidance_scale)
        self._check_share("guidance_stop", self.guidance_stop)
        if self.local_guidance_stop is not None:
            self._check_share("local_guidance_stop", self.local_guidance_stop)
        self._check_share("guidance_rescale", self.guidance_rescale)
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
        top = RoleSettings(self.num_inference_steps, self.guidance_scale, self.guidance_stop)
        if level == 0:
            return top
        steps, scale = self.local_num_inference_steps, self.local_guidance_scale
        stop = self.local_guidance_stop
        return RoleSettings(
            (top.num_inference_steps + 1) // 2 if steps is None else steps,
            top.guidance_scale if scale is None else scale,
            _LOCAL_GUIDANCE_STOP if stop is None else stop,
        )

    def fingerprint(self) -> str:
        """Canonical JSON of what is sampled, for the keys of segments.

        Two ways to say the same have one fingerprint: 2 and 2.0, and local settings that are left
        out or said as they follow from level 0.
        """
        local = self.for_level(1)
        settings = asdict(self) | {
            "guidance_scale": float(self.guidance_scale),
            "guidance_rescale": float(self.guidance_rescale),
            "guidance_stop": float(self.guidance_stop),
            "local_num_inference_steps": local.num_inference_steps,
            "local_guidance_scale": float(local.guidance_scale),
            "local_guidance_stop": float(local.guidance_stop),
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

    @staticmethod
    def _check_share(name: str, value: float) -> None:
        if not (_is_finite(value) and 0 <= value <= 1):
            raise ValueError(f"`{name}` must be from 0 to 1, got {value!r}.")


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
