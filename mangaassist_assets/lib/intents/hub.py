"""Whether an encoder's weights may be fetched from the hub, decided before its client spends half a minute on retries."""

import os
import socket
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from mangaassist_assets.lib.errors import Unavailable
from mangaassist_assets.lib.intents.encoder import EMBEDDED_ENCODER

HubUse = Literal["auto", "always", "never"]
DEFAULT_ENDPOINT = "https://huggingface.co"


def require_weights(encoder: str, use: HubUse, *, timeout_s: float = 3.0) -> None:
    """Returns where the weights lie here or may be fetched.

    `auto` fetches only where a CUDA device will train on them: base-size encoders take hours on a few cores.

    Args:
        encoder: the embedded encoder, a folder, or a hub name.
        use: whether to fetch at all.
        timeout_s: how long the hub may take to answer the telephone.

    Raises:
        Unavailable: they may not be fetched, or the hub cannot be reached; the message names the remedy.
    """
    if encoder == EMBEDDED_ENCODER or Path(encoder).is_dir() or _is_cached(encoder):
        return
    if use == "never":
        raise Unavailable(f'{encoder}: not fetched, as intents.hub is "never". Name a folder in intents.training.encoders.')
    if use == "auto" and not _has_cuda():
        raise Unavailable(f'{encoder}: not fetched, as it trains for long without CUDA. Set intents.hub = "always" to do so.')
    address = urlsplit(os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT))
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout_s).close()
    except OSError as error:
        raise Unavailable(f"{encoder}: {address.hostname} cannot be reached ({error}). Name a folder with its weights instead.") from error


def _is_cached(encoder: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(encoder, "config.json"), str)


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
