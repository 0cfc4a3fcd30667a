"""World models made of conditional distributions: encoders, temporal priors, decoders, replay and checkpoints."""
