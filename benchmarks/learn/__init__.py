"""Does reinforcement learning teach? One start, several seeds, unseen domains: `make learn`."""
