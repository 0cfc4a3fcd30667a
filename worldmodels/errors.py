"""The few public errors: each message says what was expected, what came and what to do."""


class WorldModelsError(Exception):
    """A fault with a one-line explanation. The command line prints it and exits with code 2."""


class ConfigError(WorldModelsError):
    """A configuration key, type, range or combination that cannot be used."""


class CheckpointError(WorldModelsError):
    """A run folder or checkpoint that is missing, damaged, foreign or in use."""


class EnvironmentFault(WorldModelsError):
    """An environment that broke the gymnasium contract, raised, hung or died."""


class ReplayError(WorldModelsError):
    """Replay data that cannot be stored or sampled."""


class NonFiniteError(WorldModelsError):
    """NaN or infinity where numbers were required."""
