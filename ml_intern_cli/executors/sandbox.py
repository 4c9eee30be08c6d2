"""Which wall was chosen, and the executor that runs programs behind it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ml_intern_cli.errors import InvalidInput
from ml_intern_cli.executors.walls import Wall, standing_wall

if TYPE_CHECKING:
    from ml_intern_cli.executors.process import LocalExecutor

AUTO = "auto"
CHOICES = (AUTO, *Wall)


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """What the user chose of walls.

    Attributes:
        wall: ``auto`` (bubblewrap where the machine has it, else none), or one by name.
        docker_image: What the container is made from, when the wall is Docker.
        allow_unsandboxed: Whether code that does not ship with this program may run without a wall.
    """

    wall: str = AUTO
    docker_image: str | None = None
    allow_unsandboxed: bool = False

    def with_choice(self, *, wall: str | None, docker_image: str | None) -> SandboxSettings:
        """These settings where options do not say otherwise."""
        return replace(self, wall=wall or self.wall, docker_image=docker_image or self.docker_image)


def make_executor(settings: SandboxSettings) -> LocalExecutor:
    """The executor behind the chosen wall.

    Raises:
        InvalidInput: there is no such wall, or it does not stand on this machine.
    """
    from ml_intern_cli.executors.process import LocalExecutor

    if settings.wall == AUTO:
        return LocalExecutor()
    if settings.wall not in CHOICES:
        raise InvalidInput(
            f"there is no wall named {settings.wall!r}", hint=f"choose one of: {', '.join(CHOICES)}"
        )
    wall = Wall(settings.wall)
    if wall is Wall.BUBBLEWRAP and standing_wall() is not Wall.BUBBLEWRAP:
        what, way = how_to_get_bubblewrap()
        raise InvalidInput(f"bubblewrap is {what}", hint=f"{way} · or leave out --wall bubblewrap")
    image = ""
    if wall is Wall.DOCKER:
        from ml_intern_cli.executors import docker

        image = docker.require(settings.docker_image)
    return LocalExecutor(wall=wall, image=image)


def how_to_get_bubblewrap() -> tuple[str, str]:
    """Why bubblewrap does not stand here, and the way to it."""
    if shutil.which("bwrap"):
        return "installed, but may not be used here", "allow unprivileged user namespaces"
    return "not installed", "install it: apt install bubblewrap"
