"""A labelled set for `synthagent judge calibrate`."""
