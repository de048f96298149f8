"""Tiny real components with random weights: what tests build pipelines from, in milliseconds.

A frame is 16x16 pixels and its latents 4 channels of 4x4 cells.
"""

from typing import Any

import torch
from diffusers import UniPCMultistepScheduler
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.models.mask_transformer3d import MaskTransformer3D
from nuwaxl.models.mask_unet3d import MaskUNet3D
from nuwaxl.models.prompt_adapter import PromptAdapter
from nuwaxl.pipelines.long_video import LongVideoPipeline

LATENT_SHAPE = (4, 4, 4)
SIZE = 16
PROMPT_DIM = 16
WORDS = ["a", "the", "dog", "cat", "fox", "horse", "runs", "walks", "forest", "beach", "night"]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words; those it does not know are [UNK]."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=16,
    )


def tiny_text_encoder(seed: int = 0, hidden_size: int = 12) -> BertModel:
    """BERT of one layer."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=hidden_size,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    return BertModel(config).eval()


def tiny_prompt_adapter(seed: int = 0) -> PromptAdapter:
    """Two prompt tokens."""
    torch.manual_seed(seed)
    return PromptAdapter(
        text_dim=12, dim=PROMPT_DIM, num_tokens=2, num_layers=1, heads=2, mlp_dim=16
    ).eval()


def tiny_unet(seed: int = 0, *, awake: bool = True, **changes: Any) -> MaskUNet3D:
    """Two resolutions, attention at the lower.

    Args:
        seed: of the weights.
        awake: give the layers that start at zero small random weights, so that times, given
            frames and neighbours matter as they do after training.
        changes: other arguments of `MaskUNet3D`.
    """
    torch.manual_seed(seed)
    settings: dict = {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "attention_head_dim": 8,
        "norm_num_groups": 4,
        "cross_attention_dim": PROMPT_DIM,
        "condition_channels": 8,
    }
    unet = MaskUNet3D(**(settings | changes))
    if awake:
        _wake(unet)
    return unet.eval()


def tiny_transformer(seed: int = 0, *, awake: bool = True, **changes: Any) -> MaskTransformer3D:
    """Two blocks on patches of 2x2 cells.

    Args:
        seed: of the weights.
        awake: as in `tiny_unet`; every gate of a new transformer is zero.
        changes: other arguments of `MaskTransformer3D`.
    """
    torch.manual_seed(seed)
    settings: dict = {
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "mlp_ratio": 2.0,
        "cross_attention_dim": PROMPT_DIM,
        "condition_channels": 8,
    }
    transformer = MaskTransformer3D(**(settings | changes))
    if awake:
        _wake(transformer)
    return transformer.eval()


def _wake(network: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(std=0.1)


def tiny_vae(seed: int = 0) -> TemporalAutoencoderKL:
    """Two halvings: 16x16 pixels to 4x4 cells."""
    torch.manual_seed(seed)
    return TemporalAutoencoderKL(
        latent_channels=4, block_out_channels=(4, 8, 8), norm_num_groups=2, patch_size=1
    ).eval()


def tiny_scheduler(prediction_type: Any = "v_prediction") -> UniPCMultistepScheduler:
    """The noise levels of the bundled model: zero terminal SNR for velocities."""
    return UniPCMultistepScheduler(
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        rescale_betas_zero_snr=prediction_type == "v_prediction",
        timestep_spacing="trailing",
    )


def tiny_pipeline(seed: int = 0, *, segment_length: int = 4) -> LongVideoPipeline:
    """A whole pipeline: runs of four frames, fp32, no progress bar."""
    pipeline = LongVideoPipeline(
        tokenizer=tiny_tokenizer(),
        text_encoder=tiny_text_encoder(seed),
        prompt_adapter=tiny_prompt_adapter(seed),
        vae=tiny_vae(seed),
        global_unet=tiny_unet(seed),
        local_unet=tiny_unet(seed + 1),
        scheduler=tiny_scheduler(),
        height=SIZE,
        width=SIZE,
        segment_length=segment_length,
    )
    pipeline.compute_dtype = torch.float32
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
