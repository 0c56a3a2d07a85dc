"""Run the one scheduling profile."""

import msgspec

from pointsman.core.plugin import plugin


@plugin("single-profile-handler", version=1, kind="profile handler")
class SingleProfileHandler(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Every request runs the one profile there is."""
