"""Pictures to captions, by any captioner of transformers that needs no question: GIT, BLIP.

Knows pictures and text, not videos.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from nuwaxl.tensors.devices import best_device, fast_dtype


class Captioner:
    """A captioner with its processor.

    Args:
        name: a folder, or a name on the hub such as 'microsoft/git-large-coco'.
        device: where it runs; None: the best there is.
        batch_size: pictures captioned together.
        max_new_tokens: longest caption.

    Raises:
        ValueError: there is no such captioner, or it is a model of another kind.
    """

    def __init__(
        self,
        name: str,
        *,
        device: torch.device | str | None = None,
        batch_size: int = 16,
        max_new_tokens: int = 40,
    ) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.device = torch.device(device or best_device())
        # Captions of a CPU and of a GPU agree better in fp32, and CPUs lose little by it.
        dtype = torch.float32 if self.device.type == "cpu" else fast_dtype(self.device)
        try:
            self._processor: Any = AutoProcessor.from_pretrained(name)
            self._model: Any = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise ValueError(
                f"`captioner` must be a captioner of transformers, such as GIT or BLIP, got "
                f"{name!r}: {reason}."
            ) from None
        self._model.to(self.device).eval()
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens

    @torch.no_grad()
    def __call__(self, pictures: Sequence[UInt8[np.ndarray, "height width 3"]]) -> list[str]:
        """Captions, by greedy search, so that the same pictures give the same captions.

        Args:
            pictures: RGB, of any size.
        """
        captions: list[str] = []
        for first in range(0, len(pictures), self.batch_size):
            images = list(pictures[first : first + self.batch_size])
            pixels = self._processor(images=images, return_tensors="pt")["pixel_values"]
            tokens = self._model.generate(
                pixel_values=pixels.to(self.device, self._model.dtype),
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                num_beams=1,
            )
            texts = self._processor.batch_decode(tokens, skip_special_tokens=True)
            captions += [" ".join(text.split()) for text in texts]
        return captions
