"""The pure kernel: worlds, rubrics and certification, without network, model or protobuf."""
