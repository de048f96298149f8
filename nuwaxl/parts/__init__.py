"""The parts of a pipeline: their sizes and costs, how a checkpoint holds them, LoRA for them."""
