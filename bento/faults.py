"""How the service speaks of its own faults: to its log, by type and place."""

import logging
import traceback

logger = logging.getLogger("bentoml.mangaassist")  # below bentoml's, whose level and handler the server sets up


def place_of(error: BaseException) -> str:
    """Type and innermost line of an error. Its message may quote a shopper's text and is never logged."""
    frames = traceback.extract_tb(error.__traceback__)
    return type(error).__name__ + (f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else "")
