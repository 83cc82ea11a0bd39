"""`make load`: a thousand sessions at once, for minutes, and what happens at twice the capacity."""
