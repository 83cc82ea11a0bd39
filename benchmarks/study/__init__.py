"""One study, from synthesis to a benchmark score: what training teaches, and which parts matter."""
