"""What networks are asked to find: tasks and their classes in label order."""

from dataclasses import dataclass

FLUID = "fluid"  # name of its class, and of the task that finds it alone
LAYERS = ("NFL", "GCL+IPL", "INL", "OPL", "ONL+IS", "OS", "RPE")  # classes 1 to 7
LAYER_CLASSES = ("above retina", *LAYERS, "below retina")  # classes 0 to 8


@dataclass(frozen=True)
class Task:
    """What a network tells apart. classes: their names in label order."""

    name: str
    classes: tuple[str, ...]
    finds_layers: bool

    @property
    def finds_fluid(self) -> bool:
        return FLUID in self.classes

    @property
    def fluid_label(self) -> int | None:
        """The label of fluid, None where fluid is no class."""
        return self.classes.index(FLUID) if self.finds_fluid else None


TASKS = {
    task.name: task
    for task in (
        Task("fluid", ("background", FLUID), finds_layers=False),
        Task("layers", LAYER_CLASSES, finds_layers=True),
        Task("layers+fluid", (*LAYER_CLASSES, FLUID), finds_layers=True),
    )
}
OLD_NAMES = {"both": "layers+fluid"}


def current_name(task: str) -> str:
    """The name of a task that may be called by an older one."""
    return OLD_NAMES.get(task, task)
