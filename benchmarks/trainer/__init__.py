"""The trainer's step beside that of TRL's GRPOTrainer: `make bench-trainer`."""
