"""The trainer: SFT and GRPO with DeepSpeed ZeRO on trajectories streamed over gRPC."""
