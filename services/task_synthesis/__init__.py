"""Task synthesis: makes, certifies, stores and lists tasks."""
