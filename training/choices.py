"""The values that settings of this room may have. Imports nothing; `configs` imports it."""

PARALLEL = ("ddp", "fsdp")  # training/distributed.py
OPTIMIZERS = ("muon", "adamw")
SCHEDULES = ("cosine", "linear", "wsd")  # of the learning rate
WINDOW_SCHEDULES = ("constant", "grow", "depth", "random")
PRECISIONS = ("auto", "fp32", "bf16")
DEVICES = ("auto", "cpu", "cuda", "mps")
LOGGERS = ("jsonl", "tensorboard", "wandb", "trackio")
