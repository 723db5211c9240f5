"""What a request is told when it cannot be answered."""

from typing import Any

from scratchpatch import output

_KINDS = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}
# Characters of a message.
_LONGEST = 1000
# Where a body was not read to its end, nothing else can come on its connection.
_CLOSE = {"Connection": "close"}
_HEADERS = {429: {"Retry-After": "1"}, 503: {"Retry-After": "10"}, 408: _CLOSE, 413: _CLOSE, 415: _CLOSE}


class Refused(Exception):
    """A request that gets no completion; `status` is HTTP's, `param` the field at fault, `code` OpenAI's word for the
    fault where it has one. The message may hold what the client sent: it is one line, whatever that is.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(output.one_line(message, _LONGEST))
        self.status, self.param, self.code = status, param, code

    @property
    def headers(self) -> dict[str, str]:
        """Those of the answer."""
        return _HEADERS.get(self.status, {})

    def body(self) -> dict[str, Any]:
        """The JSON object that OpenAI's clients read the error from."""
        kind = _KINDS.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}
