"""Raw cases, by the sections that the Autobahn testsuite has, and the rules that it does not try.

Where RFC 6455 leaves a choice, a case says what this server does.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from conformance.client import BINARY, CONTINUATION, PING, PONG, TEXT, Frame, close, frame

PROTOCOL_ERROR, BAD_DATA, TOO_BIG = 1002, 1007, 1009

SECTIONS = {
    1: "framing",
    2: "pings and pongs",
    3: "reserved bits",
    4: "opcodes",
    5: "fragmentation",
    6: "UTF-8",
    7: "close handling",
    9: "limits",
    10: "masking",
}


class Case(NamedTuple):
    """What a client sends, in pieces, and what has to come back.

    ``code``: of the server's close frame; None: the client closes, with 1000, and gets that back.
    """

    name: str
    pieces: list[bytes]
    answers: list[Frame] = []
    code: int | None = None

    @property
    def section(self) -> int:
        """Its number."""
        return int(self.name.split(".")[0])


def cases(max_frame_bytes: int) -> list[Case]:
    """Return all of them."""
    sections: list[Callable[[], Iterator[Case]]] = [
        _framing, _pings, _reserved_bits, _opcodes, _fragments, _fragments_out_of_place, _utf8, _closing, _masking,
    ]  # fmt: skip
    return [*(case for section in sections for case in section()), *_limits(max_frame_bytes)]


def _echo(payload: bytes, opcode: int = TEXT) -> list[Frame]:
    return [Frame(opcode, payload)]


def _framing() -> Iterator[Case]:
    for number, size in enumerate((0, 1, 125, 126, 127, 128, 65535, 65536)):
        for opcode in (TEXT, BINARY):
            payload = b"*" * size if opcode == TEXT else b"\xfe" * size
            sent = frame(opcode, payload)
            yield Case(f"1.{opcode}.{number}", [sent], _echo(payload, opcode))
            pieces = [sent[:1], sent[1:3], sent[3:7], sent[7:]]
            yield Case(f"1.{opcode}.{number}/in pieces", pieces, _echo(payload, opcode))
    many = [frame(TEXT, b"%d" % number) for number in range(200)]
    yield Case("1.3.1/many in one piece", [b"".join(many)], [Frame(TEXT, b"%d" % number) for number in range(200)])
    yield Case("1.3.2/each byte by itself", [bytes((byte,)) for byte in frame(TEXT, b"slow")], _echo(b"slow"))
    for length_bytes in (2, 8):
        yield Case(f"1.4.{length_bytes}/longer length", [frame(TEXT, b"ok", length_bytes=length_bytes)], _echo(b"ok"))


def _pings() -> Iterator[Case]:
    for number, payload in enumerate((b"", b"hello", b"\x00\xff\xfe\xfd", b"\xfe" * 125)):
        yield Case(f"2.1.{number}", [frame(PING, payload)], [Frame(PONG, payload)])
        yield Case(f"2.2.{number}", [bytes((b,)) for b in frame(PING, payload)], [Frame(PONG, payload)])
        yield Case(f"2.3.{number}/unasked pong", [frame(PONG, payload), frame(TEXT, b"on")], _echo(b"on"))
    yield Case("2.5", [frame(PING, b"\xfe" * 126)], code=PROTOCOL_ERROR)
    yield Case("2.6", [frame(PONG, b"\xfe" * 126)], code=PROTOCOL_ERROR)
    yield Case("2.7/fragmented", [frame(PING, b"half", final=False)], code=PROTOCOL_ERROR)
    yield Case("2.8/fragmented", [frame(PONG, b"half", final=False)], code=PROTOCOL_ERROR)
    pings = [frame(PING, b"%d" % number) for number in range(10)]
    yield Case("2.10", pings, [Frame(PONG, b"%d" % number) for number in range(10)])


def _reserved_bits() -> Iterator[Case]:
    for reserved in range(1, 8):
        yield Case(f"3.{reserved}.1", [frame(TEXT, b"x", reserved=reserved)], code=PROTOCOL_ERROR)
        yield Case(f"3.{reserved}.2", [frame(PING, b"x", reserved=reserved)], code=PROTOCOL_ERROR)
        pieces = [frame(TEXT, b"before"), frame(BINARY, b"x", reserved=reserved), frame(PING)]
        yield Case(f"3.{reserved}.3", pieces, _echo(b"before"), PROTOCOL_ERROR)
    yield Case("3.8/in a fragment", [frame(TEXT, b"x", final=False), frame(0, b"y", reserved=4)], code=PROTOCOL_ERROR)


def _opcodes() -> Iterator[Case]:
    for opcode in (*range(3, 8), *range(11, 16)):
        for number, payload in enumerate((b"", b"data")):
            yield Case(f"4.{opcode}.{number}", [frame(opcode, payload)], code=PROTOCOL_ERROR)
        yield Case(
            f"4.{opcode}.2", [frame(TEXT, b"before"), frame(opcode), frame(PING)], _echo(b"before"), PROTOCOL_ERROR
        )


def _fragments() -> Iterator[Case]:
    for opcode in (TEXT, BINARY):
        first, last = frame(opcode, b"frag", final=False), frame(CONTINUATION, b"ment")
        yield Case(f"5.3.{opcode}", [first, last], _echo(b"fragment", opcode))
        yield Case(f"5.4.{opcode}/one piece", [first + last], _echo(b"fragment", opcode))
        between = [Frame(PONG, b"between"), Frame(opcode, b"fragment")]
        yield Case(f"5.6.{opcode}", [first, frame(PING, b"between"), last], between)
        empty = [frame(opcode, final=False), *[frame(CONTINUATION, final=False)] * 50, frame(CONTINUATION)]
        yield Case(f"5.7.{opcode}/empty", empty, _echo(b"", opcode))
        single = [frame(opcode, b"a", final=False), *[frame(CONTINUATION, b"b", final=False)] * 500]
        yield Case(f"5.8.{opcode}/many", [b"".join(single), last], _echo(b"a" + b"b" * 500 + b"ment", opcode))
        yield Case(
            f"5.19.{opcode}/then whole", [first, last, frame(TEXT, b"on")], [*_echo(b"fragment", opcode), *_echo(b"on")]
        )


def _fragments_out_of_place() -> Iterator[Case]:
    for final in (True, False):
        stray = frame(CONTINUATION, b"stray", final=final)
        yield Case(f"5.9.{final}", [stray, frame(TEXT, b"on")], code=PROTOCOL_ERROR)
        after = [frame(TEXT, b"a", final=False), frame(CONTINUATION, b"b"), stray]
        yield Case(f"5.12.{final}", after, _echo(b"ab"), PROTOCOL_ERROR)
        for opcode in (TEXT, BINARY):
            inside = [frame(TEXT, b"a", final=False), frame(opcode, b"b", final=final)]
            yield Case(f"5.15.{opcode}.{final}", inside, code=PROTOCOL_ERROR)
    closed_inside = [frame(TEXT, b"a", final=False), close(1000)]
    yield Case("5.20/closed inside", closed_inside, code=1000)


def _utf8() -> Iterator[Case]:
    good = [
        "Hello-µ@ßöäüàá-UTF-8!!",
        "κόσμε",
        "\x00",
        "\u0080",
        "\u0800",
        "\U00010000",
        "\ufffd",
        "\U0010ffff",
        "\uffff",
    ]
    for number, text in enumerate(good):
        data = text.encode()
        yield Case(f"6.1.{number}", [frame(TEXT, data)], _echo(data))
        parts = [
            frame(TEXT, data[:1], final=False),
            *(frame(0, data[i : i + 1], final=False) for i in range(1, len(data))),
        ]
        yield Case(f"6.2.{number}/each byte a fragment", [*parts, frame(0)], _echo(data))
    bad = [
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",  # a surrogate
        b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80",  # past U+10FFFF
        b"\x80", b"\xbf", b"\xc0 ", b"\xe0 ", b"\xf0 ", b"\xfe", b"\xff",  # stray, lonely and (next) overlong bytes
        b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf",
        b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xbf\xbf", b"\xed\xa0\xb4\xed\xbc\x80",  # surrogates
        b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98",  # cut off
    ]  # fmt: skip
    for number, data in enumerate(bad):
        yield Case(f"6.3.{number}", [frame(TEXT, data)], code=BAD_DATA)
        split = [frame(TEXT, b"ok" + data[:1], final=False), frame(CONTINUATION, data[1:])]
        yield Case(f"6.4.{number}/in fragments", split, code=BAD_DATA)
        yield Case(f"6.5.{number}/binary", [frame(BINARY, data)], _echo(data, BINARY))
    for number, data in enumerate(bad[:-3]):  # the server closes before the message has ended
        yield Case(f"6.6.{number}/fail fast", [frame(TEXT, data, final=False)], code=BAD_DATA)


def _closing() -> Iterator[Case]:
    yield Case("7.1.1", [frame(TEXT, b"x"), close(1000)], _echo(b"x"), 1000)
    for number, after in enumerate((close(1000), frame(PING), frame(TEXT, b"late"))):
        yield Case(f"7.1.{2 + number}/something after the close", [close(1000) + after], code=1000)
    yield Case("7.3.1/no code", [close()], code=0)
    yield Case("7.3.2/one byte", [frame(8, b"a")], code=PROTOCOL_ERROR)
    yield Case("7.3.5/longest reason", [close(1000, b"*" * 123)], code=1000)
    yield Case("7.3.6/longer reason", [close(1000, b"*" * 124)], code=PROTOCOL_ERROR)
    yield Case("7.3.7/fragmented", [frame(8, b"\x03\xe8", final=False)], code=PROTOCOL_ERROR)
    yield Case("7.5.1/reason is not UTF-8", [close(1000, b"\xce\xba\xed\xa0\x80")], code=BAD_DATA)
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999):
        yield Case(f"7.7.{code}", [close(code, b"why")], code=code)
    for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535):
        yield Case(f"7.9.{code}", [close(code)], code=PROTOCOL_ERROR)
        yield Case(f"7.9.{code}/with a reason", [close(code, b"why")], code=PROTOCOL_ERROR)


def _masking() -> Iterator[Case]:
    for number, opcode in enumerate((TEXT, BINARY, PING, PONG, 8)):
        for payload in (b"", b"bare"):
            yield Case(f"10.{number}.{len(payload)}", [frame(opcode, payload, masked=False)], code=PROTOCOL_ERROR)
    later = [frame(TEXT, b"x"), frame(TEXT, b"bare", masked=False), frame(TEXT, b"y")]
    yield Case("10.5/later", later, _echo(b"x"), PROTOCOL_ERROR)


def _limits(most: int) -> Iterator[Case]:
    """Of the size of a message: the frame's header alone decides, before any of its payload is there."""
    yield Case("9.1/as large as allowed", [frame(BINARY, b"x" * most)], _echo(b"x" * most, BINARY))
    for number, size in enumerate((most + 1, 2**31, 2**32 + 1, 2**63 - 1, 2**64 - 1)):
        yield Case(f"9.2.{number}/header alone", [b"\x81\xff" + size.to_bytes(8, "big")], code=TOO_BIG)
    yield Case("9.3/whole", [frame(TEXT, b"x" * (most + 1))], code=TOO_BIG)
    yield Case("9.4/many times too large", [frame(TEXT, b"x" * (16 * most))], code=TOO_BIG)
    parts = [frame(TEXT, b"x" * (most // 2), final=False), frame(CONTINUATION, b"x" * (most // 2 + 1), final=False)]
    yield Case("9.5/in fragments", parts, code=TOO_BIG)
    half = [frame(TEXT, b"x" * (most // 2), final=False), frame(PING, b"p"), frame(CONTINUATION, b"x" * (most // 2))]
    yield Case("9.6/in fragments, not too large", half, [Frame(PONG, b"p"), Frame(TEXT, b"x" * (most // 2 * 2))])
    yield Case("9.7/many pongs", [frame(PONG, b"x" * 125) * 2000, frame(TEXT, b"end")], _echo(b"end"))
