"""A small seeded model and its artifact, drawn images, and the data of ../shared where it is there."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared"
CLASSES = ["circle", "square", "stripes"]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's reference material; tests that need it are skipped without."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared, which only the project's own machines have")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def fresh_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Engines are tried anew, whatever was remembered before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def draw(label: int, seed: int, size: tuple[int, int] = (40, 36)) -> Image.Image:
    """An image of one of :data:`CLASSES`."""
    rng = np.random.default_rng([label, seed])
    height, width = size
    y, x = np.mgrid[:height, :width]
    cy, cx, r = rng.uniform(14, 22), rng.uniform(14, 22), rng.uniform(6, 12)
    shapes = [
        (y - cy) ** 2 + (x - cx) ** 2 < r**2,
        (abs(y - cy) < r) & (abs(x - cx) < r),
        (x + rng.integers(0, 6)) % 8 < 4,
    ]
    pixels = np.where(shapes[label][..., None], rng.integers(150, 256, 3), rng.integers(0, 100, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def encode(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    """The image as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 classes × 20 drawn images, as ``<class>/<number>.png``."""
    root = tmp_path_factory.mktemp("images")
    for label, name in enumerate(CLASSES):
        (root / name).mkdir()
        for seed in range(20):
            draw(label, seed).save(root / name / f"{seed:02}.png")
    return root


@pytest.fixture(scope="session")
def checkpoint():
    """A two-block DHVT with random weights, every BatchNorm having seen something."""
    import torch

    from dhvt.data.preprocess import Preprocess
    from dhvt.model.checkpoint import Checkpoint
    from dhvt.model.config import DHVTConfig
    from dhvt.model.dhvt import DHVT

    torch.manual_seed(0)
    preprocess = DHVTConfig(img_size=(32, 32), patch_size=4, embed_dim=32, num_heads=4, num_classes=3, depth=2)
    model = DHVT(preprocess).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.head.weight.mul_(10)
        for _ in range(20):
            model(torch.randn(8, 3, 32, 32))
    return Checkpoint(
        name="dhvt_test",
        config=preprocess.to_dict(),
        weights=model.state_dict(),
        classes=CLASSES,
        preprocess=Preprocess(size=(32, 32)).to_dict(),
        metrics={"val_top1": 33.3},
        temperature=1.7,
    )


@pytest.fixture(scope="session")
def graphs_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Exports of this process make each graph once."""
    from export import source
    from tests.graphs import export_once

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "export_graph", export_once(source.export_graph, tmp_path_factory.mktemp("graphs")))
        yield


@pytest.fixture(scope="session")
def artifact_path(checkpoint, graphs_once, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model, exported."""
    from export.pipeline import export_model

    return export_model(checkpoint, tmp_path_factory.mktemp("exported") / "artifact").path


@pytest.fixture
def artifact_copy(artifact_path: Path, tmp_path: Path) -> Path:
    """The same, for a test to damage."""
    import shutil

    return Path(shutil.copytree(artifact_path, tmp_path / "artifact"))
