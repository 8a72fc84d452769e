"""The frame decoder by itself: it gives a frame or an ``AppError``, in no time, whatever the text."""

import time
from collections.abc import Sequence
from typing import Any

from fuzz.findings import Findings
from protocol.codes import AppError
from protocol.inbound import Body, FrameDecoder, decode_body

# One that needs this long for a frame of up to 64 KiB would hold up everybody.
_SLOW_S = 0.1


def decode_all(part: str, decoder: FrameDecoder[Any], texts: Sequence[str], findings: Findings) -> None:
    """Decode frames."""
    for text in texts:
        findings.count(part)
        started = time.thread_time()
        try:
            decoder.decode(text)
            findings.answered(part, "frame")
        except AppError as error:
            findings.answered(part, error.code.name)
            if not error.message.isprintable() or len(error.message) > 500:
                findings.breach(f"{part}: a message unfit to be shown: {error.message[:100]!r}", text)
        except Exception as error:
            findings.breach(f"{part}: {error!r}", text)
        if time.thread_time() - started > _SLOW_S:
            findings.breach(f"{part}: {time.thread_time() - started:.2f} s", text)


def decode_bodies(part: str, kinds: Sequence[type[Body]], texts: Sequence[str], findings: Findings) -> None:
    """Decode REST bodies, each as every kind in turn."""
    for place, text in enumerate(texts):
        findings.count(part)
        try:
            decode_body(text.encode("utf-8", "surrogatepass"), kinds[place % len(kinds)])
            findings.answered(part, "body")
        except AppError as error:
            findings.answered(part, error.code.name)
        except Exception as error:
            findings.breach(f"{part}: {error!r}", text)
