"""``python -m fuzz.guided [libFuzzer options]``: coverage-guided inputs for the decoders, by atheris.

Apart from the rest because atheris is a compiled package for few platforms: install it by hand, beside the server's
requirements, in an environment of its own. ``-max_total_time=60`` is a good start.
"""

import sys
from typing import Any

try:
    import atheris
except ImportError:
    sys.exit("atheris is not installed here: pip install atheris")

with atheris.instrument_imports(include=["protocol", "json"]):
    from protocol import inbound
    from protocol.codes import AppError
    from protocol.inbound import FrameDecoder, decode_body

_EVENTS: FrameDecoder[Any] = FrameDecoder(inbound.EventsFrame)
_MESSAGES: FrameDecoder[Any] = FrameDecoder(inbound.MessagesFrame)
_BODIES = (inbound.NewConversation, inbound.NewMessage, inbound.MarkMessages, inbound.NewBounty, inbound.ChangeStatus)
_LONGEST_MESSAGE = 500


def one(data: bytes) -> None:
    """Decode as a frame of both endpoints and as every body: anything but an ``AppError`` is a find."""
    text = data.decode("utf-8", "replace")
    for decode in (
        _EVENTS.decode,
        _MESSAGES.decode,
        *(lambda _, kind=kind: decode_body(data, kind) for kind in _BODIES),
    ):
        try:
            decode(text)
        except AppError as error:
            assert error.message.isprintable() and len(error.message) <= _LONGEST_MESSAGE, error.message[:100]


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
