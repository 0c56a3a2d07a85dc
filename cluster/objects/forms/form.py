"""What the manifest of one kind of object looks like: its form."""

from collections.abc import Callable

import msgspec

from pointsman.cluster.objects.fields import Part
from pointsman.core.events import AppliedEvent


class ManifestPlace(msgspec.Struct, frozen=True):
    """An object's name, and where its manifest was found."""

    name: str
    """Name of the object, as `namespace/name`."""
    source: str
    """Name of the file, or the API server's resource."""
    version: str
    """Digest of the file, or the API server's resourceVersion."""

    @property
    def namespace(self) -> str:
        """The namespace alone."""
        return self.name.partition("/")[0]


def every(root: Part) -> bool:
    """Take each manifest of the form's `kind`."""
    return True


class ManifestForm(msgspec.Struct, frozen=True):
    """How the objects of a kind are written, and read."""

    applied: type[AppliedEvent]
    """Type of the events that `read` returns: the kind's declaration in `core/events/`."""
    kind: str
    """Field `kind` of a manifest of this form."""
    read: Callable[[Part, ManifestPlace], AppliedEvent]
    """Function that reads the object; raises `DocumentError` with the line where it is wrong."""
    takes: Callable[[Part], bool] = every
    """Function that tells whether a manifest of that `kind` is of this form: another group may use the same word."""
