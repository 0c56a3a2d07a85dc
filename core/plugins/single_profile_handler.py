"""Run the one scheduling profile."""

import msgspec

from pointsman.core.plugin.shapes import profile_handler


@profile_handler("single-profile-handler", version=1)
class SingleProfileHandler(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Every request runs the one profile there is."""
