"""Reloads: one at a time, and each sees what it was asked for."""

import asyncio

import pytest

from dhvt.errors import ArtifactError
from serving.errors import NotReloaded
from serving.inference.reload import ModelManager


class Model:
    """What a manager sees of a model."""

    def __init__(self, version):
        self.version, self.is_closed = version, False

    async def close(self):
        self.is_closed = True

    def announce(self, value):
        pass


class Folder:
    """A model folder whose version changes, and which is slow to load."""

    def __init__(self):
        self.version, self.loads, self.running = 0, 0, 0
        self.may_finish = asyncio.Event()

    async def load(self):
        self.loads, self.running = self.loads + 1, self.running + 1
        assert self.running == 1
        version = self.version
        await self.may_finish.wait()
        self.running -= 1
        if version < 0:
            raise ArtifactError("damaged")
        return Model(version)


def test_reloads_that_are_asked_for_meanwhile_become_one():
    async def run():
        folder = Folder()
        manager = ModelManager(Model(0), folder.load)
        folder.version = 1
        asked = [asyncio.create_task(manager.reload())]
        await asyncio.sleep(0.01)
        folder.version = 2
        asked += [asyncio.create_task(manager.reload()) for _ in range(5)]
        await asyncio.sleep(0.01)
        folder.may_finish.set()
        await asked[0]
        await asyncio.gather(*asked)
        return manager.current.version, folder.loads

    assert asyncio.run(asyncio.wait_for(run(), 20)) == (2, 2)


def test_a_reload_that_timed_out_goes_on_alone():
    """The next one that is asked for waits for it."""

    async def run():
        folder = Folder()
        manager = ModelManager(Model(0), folder.load)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(manager.reload(), 0.05)
        again = asyncio.create_task(manager.reload())
        await asyncio.sleep(0.05)
        assert folder.loads == 1
        folder.version = 3
        folder.may_finish.set()
        await again
        return manager.current.version, folder.loads

    assert asyncio.run(asyncio.wait_for(run(), 20)) == (3, 2)


def test_a_model_that_cannot_be_loaded_leaves_the_old_one_and_the_next_reload_works():
    async def run():
        folder = Folder()
        folder.may_finish.set()
        manager = ModelManager(old := Model(0), folder.load)
        folder.version = -1
        with pytest.raises(NotReloaded, match="damaged"):
            await manager.reload()
        assert manager.current is old
        folder.version = 1
        await manager.reload()
        await asyncio.sleep(0.05)
        return manager.current.version, old.is_closed

    assert asyncio.run(asyncio.wait_for(run(), 20)) == (1, True)
