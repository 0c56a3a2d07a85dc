"""The JSON of a request, and the error that a wrong one gets."""

import json

JsonObject = dict[str, object]


class ApiError(Exception):
    """A request that gets an error reply."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param

    def body(self) -> bytes:
        """The reply's JSON, in OpenAI's form as vLLM words it."""
        fields = {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}
        return json.dumps({"error": fields}).encode()


def parse_object(body: bytes) -> JsonObject:
    """The JSON object that a request's body must be."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(
            400, "Bad Request", f"[{{'type': 'json_invalid', 'msg': 'JSON decode error: {error}'}}]"
        ) from None
    if not isinstance(request, dict):
        raise ApiError(400, "Bad Request", "Input should be a valid dictionary or object to extract fields from")
    return request


def whole_number(request: JsonObject, name: str, default: int) -> int:
    """The number that a member holds; `default` where it is absent or null."""
    value = request.get(name)
    if value is None:
        return default
    if type(value) is not int:
        raise bad_request(f"Input should be a valid integer, found {name}={value!r}", name)
    return value


def truth(request: JsonObject, name: str) -> bool:
    """The truth value that a member holds; False where it is absent or null."""
    value = request.get(name) or False
    if not isinstance(value, bool):
        raise bad_request(f"Input should be a valid boolean, found {name}={value!r}", name)
    return value


def token_ids(ids: object, name: str) -> bytes:
    """The bytes that stand for a prompt of token ids."""
    if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < 2**32 for i in ids) or not ids:
        raise bad_request(f"a prompt of token ids is a list of numbers from 0, found {name}={ids!r:.100}", name)
    return b"".join(i.to_bytes(4, "little") for i in ids)


def message_text(message: object, name: str) -> bytes:
    """The bytes that stand for one message in a prompt: its role, and the text of its content."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise bad_request("each message is an object with a role", name)
    return role_text(message["role"], message.get("content"))


def role_text(role: str, content: object) -> bytes:
    """The bytes that stand for what `role` says: a text, or a list of parts of which texts count."""
    if isinstance(content, list):
        content = "".join(str(p["text"]) for p in content if isinstance(p, dict) and "text" in p)
    return f"<|{role}|>{content or ''}\n".encode("utf-8", "replace")


def bad_request(message: str, param: str | None) -> ApiError:
    """The error of a request that cannot be understood."""
    return ApiError(400, "BadRequestError", message, param)
