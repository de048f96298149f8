"""Where a prompt sets a scene: what the place looks like along the camera's way through it.

Knows prompt embeddings, latents and positions of the camera, not times, seeds or noise levels.
"""

import math

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

_NUM_WAVES = 32
"""The finest has so many periods in a turn: they are about as long as a cell is wide."""
_NUM_CONVS = 3
_NUM_GROUPS = 8
_NEAR = 2
"""Speeds on either side of the likeliest one that its mean is taken over."""


class SceneryModel(ModelMixin, ConfigMixin):
    """A rough sketch of a frame from prompt and camera alone, by regression.

    The camera's position is in turns around a place, whose panorama closes on itself. Frames that
    are made apart, each with the sketch of where it is, show one place and not many. How fast a
    prompt has the camera travel, and where a given frame is, is read here too.

    Args:
        in_channels: channels of the latents.
        height: of the latents.
        width: of the latents.
        prompt_dim: numbers in a frame's prompt embedding, tokens times width.
        channels: width of the layers that sketch.
        hidden_dim: width of what is kept of a prompt to sketch; half of it to read.
        reader_channels: width of the layers that read a position, a multiple of 8.
        view: share of a turn that a frame shows.
        max_speed: largest speed that is told from a smaller one, in turns per second.
        num_speeds: speeds that are told apart, an odd number.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        height: int = 8,
        width: int = 8,
        prompt_dim: int = 1280,
        channels: int = 96,
        hidden_dim: int = 64,
        reader_channels: int = 48,
        view: float = 0.284,
        max_speed: float = 0.08,
        num_speeds: int = 65,
    ):
        super().__init__()
        self.view = view
        self.prompt_proj = nn.Linear(prompt_dim, hidden_dim)
        self.columns = nn.Linear(2 * _NUM_WAVES, channels)
        nn.init.normal_(self.columns.weight, std=0.1)  # coordinates count from the start
        self.rows = nn.Parameter(0.3 * torch.randn(channels, height))
        self.modulation = nn.Linear(hidden_dim, _NUM_CONVS * 2 * channels)
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(_NUM_CONVS)
        )
        self.conv_out = nn.Conv2d(channels, in_channels, 3, padding=1)

        # Of its own: what tells a speed says little of what is seen.
        self.reader_prompt_proj = nn.Linear(prompt_dim, hidden_dim // 2)
        self.speed_out = nn.Linear(hidden_dim // 2, num_speeds)

        self.reader_in = nn.Conv2d(in_channels, reader_channels, 3, padding=1)
        self.reader_norm = nn.GroupNorm(_NUM_GROUPS, reader_channels, affine=False)
        self.reader_modulation = nn.Linear(hidden_dim // 2, 2 * reader_channels)
        self.reader_conv = nn.Conv2d(reader_channels, reader_channels, 3, padding=1)
        self.reader_narrow = nn.Conv2d(reader_channels, _NUM_GROUPS, 1)
        self.reader_linear = nn.Linear(_NUM_GROUPS * height * width, reader_channels)
        self.reader_out = nn.Linear(reader_channels, 2)

    @property
    def speeds(self) -> Float[Tensor, " num_speeds"]:
        """Those told apart, in turns per second; in float32 also where the weights are not.

        What is rounded off a speed grows with the time for which the camera travels.
        """
        most, count = self.config["max_speed"], self.config["num_speeds"]
        return torch.linspace(-most, most, count, device=self.device)

    def forward(
        self,
        latents: Float[Tensor, "batch channels height width"],
        prompts: Float[Tensor, "batch dim"],
        camera_positions: Float[Tensor, " batch"],
    ) -> tuple[
        Float[Tensor, "batch channels height width"],
        Float[Tensor, "batch 2"],
        Float[Tensor, "batch speeds"],
    ]:
        """All that it can tell, for training.

        Args:
            latents: of frames.
            prompts: their prompts' embeddings.
            camera_positions: of their middles, in turns.

        Returns:
            Sketches of the frames, from prompts and positions; sine and cosine of the positions,
            from latents and prompts; how likely each of the `speeds` is, from prompts.
        """
        return (
            self._drawn(prompts, camera_positions),
            self._read(prompts, latents),
            self._speed_logits(prompts),
        )

    def sketch(
        self,
        prompts: Float[Tensor, "batch dim"],
        camera_positions: Float[Tensor, " batch"],
        size: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """What a frame shows on average, as latents; zeros where the camera is not known.

        Args:
            prompts: embeddings.
            camera_positions: of the frames' middles, in turns; NaN where not known.
            size: height and width of the latents; None: as trained.
        """
        known = ~camera_positions.isnan()
        drawn = self._drawn(prompts, camera_positions.nan_to_num())
        return self._sized(drawn, size or self._size) * known[:, None, None, None]

    def speed(self, prompts: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
        """How fast a prompt has the camera travel, in turns per second, to the right positive.

        Of two likely speeds (a prompt that leaves out the direction) one, not what lies between.

        Args:
            prompts: embeddings.
        """
        return self.likeliest(self._speed_logits(prompts))

    def likeliest(self, logits: Float[Tensor, "batch speeds"]) -> Float[Tensor, " batch"]:
        """The likeliest speed, in turns per second.

        Args:
            logits: of the `speeds`.
        """
        number = torch.arange(len(self.speeds), device=logits.device)
        far = (number - logits.argmax(-1, keepdim=True)).abs() > _NEAR
        return logits.float().masked_fill(far, -torch.inf).softmax(-1) @ self.speeds

    def positions(
        self,
        latents: Float[Tensor, "batch channels height width"],
        prompts: Float[Tensor, "batch dim"],
    ) -> Float[Tensor, " batch"]:
        """Where the middle of each frame is, in turns, in [0, 1).

        Args:
            latents: of the frames.
            prompts: their prompts' embeddings.
        """
        return turns(self._read(prompts, self._sized(latents, self._size)).float())

    @property
    def _size(self) -> tuple[int, int]:
        return self.config["height"], self.config["width"]

    @staticmethod
    def _sized(latents: Tensor, size: tuple[int, int]) -> Tensor:
        if latents.shape[-2:] == size:
            return latents
        return functional.interpolate(latents, size, mode="bilinear", antialias=True)

    def _drawn(self, prompts: Tensor, positions: Tensor) -> Tensor:
        width = self.config["width"]
        columns = (torch.arange(width, device=positions.device) + 0.5) / width - 0.5
        waves = torch.arange(1, _NUM_WAVES + 1, device=positions.device)
        places = positions.float()[:, None] + self.view * columns
        angles = 2 * math.pi * (places[..., None] * waves % 1)
        told = torch.cat([angles.sin(), angles.cos()], dim=-1).to(self.columns.weight.dtype)
        hidden = rearrange(self.columns(told), "n w c -> n c 1 w") + self.rows[..., None]
        modulation = self.modulation(functional.silu(self.prompt_proj(prompts)))
        modulation = rearrange(modulation, "n (k s c) -> k s n c 1 1", k=_NUM_CONVS, s=2)
        for number, (conv, (scale, shift)) in enumerate(zip(self.convs, modulation, strict=True)):
            new = functional.silu(torch.addcmul(shift, conv(hidden), 1 + scale))
            hidden = hidden + new if number else new
        return self.conv_out(hidden)

    def _speed_logits(self, prompts: Tensor) -> Tensor:
        return self.speed_out(functional.silu(self.reader_prompt_proj(prompts)))

    def _read(self, prompts: Tensor, latents: Tensor) -> Float[Tensor, "batch 2"]:
        kept = functional.silu(self.reader_prompt_proj(prompts))
        scale, shift = self.reader_modulation(kept)[..., None, None].chunk(2, dim=1)
        hidden = self.reader_norm(self.reader_in(latents))
        hidden = functional.silu(torch.addcmul(shift, hidden, 1 + scale))
        hidden = functional.silu(hidden + self.reader_conv(hidden))
        hidden = functional.silu(self.reader_narrow(hidden)).flatten(1)
        return self.reader_out(functional.silu(self.reader_linear(hidden)))


def turns(sine_and_cosine: Float[Tensor, "... 2"]) -> Float[Tensor, "..."]:
    """The angle in turns, in [0, 1).

    Args:
        sine_and_cosine: of any length.
    """
    sine, cosine = sine_and_cosine.unbind(-1)
    return torch.atan2(sine, cosine) / (2 * math.pi) % 1
