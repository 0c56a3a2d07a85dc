"""The objects of a fake API server: one revision for all, events that are forgotten, patches as the real one takes them."""

import copy
import threading
import uuid
from collections import deque
from typing import Any

Object = dict[str, Any]
Kind = tuple[str, str]
"""Group and plural."""


class Refused(Exception):
    """A request that is answered with a Status."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message


class FakeObjects:
    """All objects, and the events of the last changes."""

    def __init__(self, window: int = 1000) -> None:
        self.changed = threading.Condition()
        self.revision = 100
        self.served: dict[Kind, dict[str, str]] = {("", "pods"): {"v1": "Pod"}, ("", "namespaces"): {"v1": "Namespace"}}
        """Kinds that are served: version to kind."""
        self.events: deque[tuple[int, str, Kind, Object]] = deque(maxlen=window)
        self._objects: dict[Kind, dict[tuple[str, str], Object]] = {}

    def serve(self, group: str, plural: str, kind: str, *versions: str) -> None:
        """Serve a kind, as if its CRD were installed."""
        with self.changed:
            self.served[group, plural] = dict.fromkeys(versions, kind)
            self.changed.notify_all()

    def withdraw(self, group: str, plural: str) -> None:
        """Serve a kind no more."""
        with self.changed:
            self.served.pop((group, plural), None)
            self._objects.pop((group, plural), None)
            self.changed.notify_all()

    def forget(self) -> None:
        """Forget all events, so that every watch from before is told 410."""
        with self.changed:
            self.revision += 1
            self.events.clear()

    def oldest(self) -> int:
        """The oldest revision from which a watch can go on."""
        return self.events[0][0] - 1 if self.events else self.revision

    def list(self, kind: Kind, namespace: str) -> list[Object]:
        """The objects of a kind, in a namespace or in all."""
        found = self._objects.get(kind, {})
        return [one for key, one in sorted(found.items()) if namespace in ("", key[0])]

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """One object."""
        try:
            return self._objects[kind][namespace, name]
        except KeyError:
            raise Refused(404, "NotFound", f'{kind[1]} "{name}" not found') from None

    def create(self, kind: Kind, namespace: str, value: Object) -> Object:
        """Create an object; a status that comes with it is left out, as the real server does where it is a resource."""
        name = value.get("metadata", {}).get("name", "")
        with self.changed:
            held = self._objects.setdefault(kind, {})
            if (namespace, name) in held:
                raise Refused(409, "AlreadyExists", f'{kind[1]} "{name}" already exists')
            value = copy.deepcopy(value)
            value.pop("status", None)
            value["metadata"] |= {"namespace": namespace, "uid": str(uuid.uuid4()), "generation": 1}
            return self._put(kind, value, "ADDED")

    def replace(self, kind: Kind, value: Object, *, status: bool, dry_run: bool) -> Object:
        """Take an object as it should be; spec and status change each by a resource of its own."""
        metadata = value["metadata"]
        with self.changed:
            before = self.get(kind, metadata["namespace"], metadata["name"])
            if metadata.get("resourceVersion") not in (None, "", before["metadata"]["resourceVersion"]):
                raise Refused(409, "Conflict", "the object has been modified; please apply your changes to the latest")
            after = copy.deepcopy(before if status else value)
            if status:
                after["status"] = copy.deepcopy(value.get("status"))
            elif "status" in before:
                after["status"] = before["status"]
            after["metadata"] = {**after["metadata"], "uid": before["metadata"]["uid"]}
            after["metadata"]["generation"] = before["metadata"]["generation"]
            if after.get("spec") != before.get("spec"):
                after["metadata"]["generation"] += 1
            after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
            if after == before or dry_run:
                return after
            return self._put(kind, after, "MODIFIED")

    def delete(self, kind: Kind, namespace: str, name: str) -> Object:
        """Delete an object."""
        with self.changed:
            value = copy.deepcopy(self.get(kind, namespace, name))
            del self._objects[kind][namespace, name]
            return self._tell(kind, value, "DELETED")

    def touch(self, kind: Kind, namespace: str, name: str) -> None:
        """Tell of an object once more, although nothing in it changed."""
        with self.changed:
            self._put(kind, copy.deepcopy(self.get(kind, namespace, name)), "MODIFIED")

    def _put(self, kind: Kind, value: Object, event: str) -> Object:
        value = self._tell(kind, value, event)
        self._objects.setdefault(kind, {})[value["metadata"]["namespace"], value["metadata"]["name"]] = value
        return value

    def _tell(self, kind: Kind, value: Object, event: str) -> Object:
        self.revision += 1
        value["metadata"]["resourceVersion"] = str(self.revision)
        self.events.append((self.revision, event, kind, value))
        self.changed.notify_all()
        return value


def json_patched(value: Object, operations: list[dict[str, Any]]) -> Object:
    """The object after a JSON patch (RFC 6902: add, replace, remove, test)."""
    value = copy.deepcopy(value)
    for operation in operations:
        *way, last = [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]]
        place: Any = value
        try:
            for step in way:
                place = place[int(step)] if isinstance(place, list) else place[step]
            key: Any = int(last) if isinstance(place, list) else last
            match operation["op"]:
                case "test":
                    if place[key] != operation["value"]:
                        raise KeyError(last)
                case "remove":
                    del place[key]
                case "add" | "replace":
                    if operation["op"] == "replace":
                        place[key]
                    place[key] = operation["value"]
                case other:
                    raise Refused(400, "BadRequest", f"unknown operation {other!r}")
        except (KeyError, IndexError, ValueError):
            message = "the server rejected our request due to an error in our request"
            raise Refused(422, "Invalid", message) from None
    return value


def merge_patched(value: Any, patch: Any) -> Any:
    """The object after a merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            result.pop(key, None)
        else:
            result[key] = merge_patched(result.get(key), change)
    return result
