"""Frames, ids and times as the wire has them."""

import json
import struct
import uuid
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.codes import AppError, CloseCode, ErrorCode, store_unavailable
from protocol.inbound import (
    EventsFrame,
    FrameDecoder,
    MessageSend,
    MessagesFrame,
    NewConversation,
    NewMessage,
    Ping,
    decode_body,
    parse_id,
)
from protocol.outbound import MessageNew, Pong, encode, error_frame, new_id, text_frame, timestamp

ID = "a11ce000-0000-4000-8000-00000000000a"
decoder: FrameDecoder[object] = FrameDecoder(MessagesFrame)  # type: ignore[type-var]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
field_names = st.sampled_from(
    ["type", "conversationId", "text", "clientMessageId", "replyTo", "mediaUrl", "seq", "messageId", "ts",
     "conversations", "isTyping", "bountyIds", "token"]
)  # fmt: skip
frame_types = st.sampled_from(["ping", "join", "leave", "typing", "message.send", "message.read", "sync"])


@pytest.fixture(scope="module", autouse=True)
def _characters() -> None:
    """Let Hypothesis make its table of all characters: a second or two, once a clone, that are not an example's."""
    st.text().validate()


def unframed(frame: bytes) -> bytes:
    """Return the payload of one whole frame, read as RFC 6455, section 5.2, says."""
    assert frame[0] == 0b1000_0001, "final, no extension, text"
    assert not frame[1] & 0x80, "not masked"
    size, start = frame[1], 2
    if size == 126:
        (size,), start = struct.unpack_from("!H", frame, 2), 4
        assert size >= 126, "the shortest header has to be used"
    elif size == 127:
        (size,), start = struct.unpack_from("!Q", frame, 2), 10
        assert 65536 <= size < 2**63
    assert len(frame) == start + size
    return frame[start:]


@given(payload=st.binary(max_size=300))
@example(b"")
@example(b"x" * 125)
@example(b"x" * 126)
@example(b"x" * 65535)
@example(b"x" * 65536)
@example(b"x" * 70000)
def test_frames_have_the_right_header(payload: bytes) -> None:
    """In each of the three sizes of header, and on both sides of where they change."""
    assert unframed(text_frame(payload)) == payload


@given(text=st.text(max_size=5000), seq=st.integers(1, 2**63 - 1))
@example("\u2028 </script> \U0001f431 \x7f \\", 1)
def test_any_text_comes_through(text: str, seq: int) -> None:
    """As JSON in UTF-8, with the contract's names and nothing that is not set."""
    frame = MessageNew(
        conversation_id=ID, message_id=ID, sender_id=ID, text=text, timestamp="t", seq=seq, reply_to=None,
        media_url=None, client_message_id="k",
    )  # fmt: skip
    assert json.loads(unframed(encode(frame)).decode()) == {
        "type": "message.new", "conversationId": ID, "messageId": ID, "senderId": ID, "text": text, "timestamp": "t",
        "status": "sent", "seq": seq, "replyTo": None, "mediaUrl": None, "clientMessageId": "k",
    }  # fmt: skip


@given(known=st.uuids(), upper=st.booleans())
def test_an_id_is_canonical_both_ways(known: uuid.UUID, upper: bool) -> None:
    """However the client writes it, the rest of the server sees one spelling, and the wire too."""
    written = str(known).upper() if upper else str(known)
    frame = decoder.decode(
        json.dumps({"type": "message.send", "conversationId": written, "text": "", "clientMessageId": "k"})
    )
    assert isinstance(frame, MessageSend)
    assert frame.conversation_id == str(known)
    out = unframed(encode(Pong(ts=frame.conversation_id, timestamp="")))
    assert json.loads(out)["ts"] == str(known)


@given(value=st.text(max_size=40) | st.from_regex(r"\A[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{20}\Z"))
@example(ID + "\n")
@example("{" + ID + "}")
@example(ID.replace("-", ""))
@example(ID.replace("a", "ä"))
@example(ID.replace("0", "٠"))
def test_what_is_no_id(value: str) -> None:
    """Other spellings that Python's or Postgres' own parsers take are none."""
    with pytest.raises(ValueError, match="UUID"):
        parse_id(value)


@given(moment=st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31), timezones=st.just(UTC)))
def test_a_timestamp_is_iso_8601_with_milliseconds(moment: datetime) -> None:
    """Cut, not rounded: a time is never later than what it names."""
    written = timestamp(moment)
    assert len(written) == 24
    assert written.endswith("Z")
    assert timedelta(0) <= moment - datetime.fromisoformat(written) < timedelta(milliseconds=1)


def test_new_ids_are_uuids_that_rise_with_time() -> None:
    """Version 7: unique, and near each other in an index when made near each other."""
    ids = [uuid.UUID(new_id()) for _ in range(2000)]
    assert len(set(ids)) == len(ids)
    assert all((one.version, one.variant) == (7, uuid.RFC_4122) for one in ids)
    millis = [one.int >> 80 for one in ids]
    assert all(before <= after for before, after in pairwise(millis))
    assert abs(millis[-1] / 1000 - datetime.now(UTC).timestamp()) < 5


@given(message=st.text(st.characters(codec=None), max_size=200))
def test_no_text_breaks_the_decoder(message: str) -> None:
    """A frame, or an error that has a code."""
    with_code(message)


@given(fields=st.dictionaries(field_names, json_values, max_size=5), kind=frame_types)
def test_no_json_breaks_the_decoder(fields: dict[str, object], kind: str) -> None:
    """Whatever is in the fields; and the error can be told, in a frame."""
    with_code(json.dumps({**fields, "type": kind}))
    with_code(json.dumps({**fields, "type": kind}, ensure_ascii=False))
    with_code(json.dumps(fields))


def with_code(message: str) -> None:
    try:
        decoder.decode(message)
    except AppError as error:
        assert error.code in (ErrorCode.INVALID_JSON, ErrorCode.INVALID_FRAME, ErrorCode.UNKNOWN_TYPE,
                              ErrorCode.INVALID_TEXT)  # fmt: skip
        told = json.loads(unframed(error_frame(error)).decode())
        assert (told["type"], told["code"]) == ("error", error.code.name)
        assert "\n" not in told["message"]


@given(body=st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
@example(b'{"text": "\\ud800"}')
@example(b'{"text": "\xed\xa0\x80"}')
@example(b"[" * 10_000)
@example(b'{"text":' * 10_000)
def test_no_body_breaks_the_decoder(body: bytes) -> None:
    """A body, or an error that has a code."""
    for kind in (NewMessage, NewConversation):
        try:
            decode_body(body, kind)
        except AppError as error:
            assert error.code in (ErrorCode.INVALID_JSON, ErrorCode.INVALID_REQUEST, ErrorCode.INVALID_TEXT)


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        ("", "INVALID_JSON", "JSON"),
        ("{", "INVALID_JSON", "JSON"),
        ('{"type":"ping","more":' + "[" * 100_000, "INVALID_JSON", "JSON"),
        ('{"type":"ping","more":' + '{"a":' * 100_000, "INVALID_JSON", "JSON"),
        ('{"type":"join"}', "INVALID_FRAME", "conversationId"),
        ('{"type":"join","conversationId":"x"}', "INVALID_FRAME", "conversationId"),
        ('{"type":"join","conversationId":5}', "INVALID_FRAME", "conversationId"),
        ('{"type":"nonsense"}', "UNKNOWN_TYPE", "message.send"),
        ('{"type":5}', "INVALID_FRAME", "type"),
        ("[]", "INVALID_FRAME", "object"),
        ('{"conversationId":1}', "INVALID_FRAME", "type"),
        (f'{{"type":"message.read","conversationId":"{ID}"}}', "INVALID_FRAME", "messageId"),
        (f'{{"type":"message.read","conversationId":"{ID}","seq":-1}}', "INVALID_FRAME", "seq"),
        (f'{{"type":"message.read","conversationId":"{ID}","seq":9223372036854775808}}', "INVALID_FRAME", "seq"),
        ('{"type":"sync","conversations":{"x":1}}', "INVALID_FRAME", "conversations"),
        (f'{{"type":"ping","ts":"{"x" * 65}"}}', "INVALID_FRAME", "ts"),
    ],
)
def test_an_error_names_the_field(message: str, code: str, words: str) -> None:
    """And what was expected."""
    with pytest.raises(AppError) as caught:
        decoder.decode(message)
    assert caught.value.code.name == code
    assert words in caught.value.message


@pytest.mark.parametrize("key", ["", "x" * 65, "a\x00", "a\n", "\ud800"])
def test_keys_that_are_none(key: str) -> None:
    """1 to 64 characters that a database and a log can hold; the error quotes only what is safe to quote."""
    fields = {"type": "message.send", "conversationId": ID, "text": "x", "clientMessageId": key}
    with pytest.raises(AppError) as caught:
        decoder.decode(json.dumps(fields))
    assert caught.value.code is ErrorCode.INVALID_FRAME
    assert caught.value.conversation_id == ID
    assert caught.value.client_message_id in ("", None)


@pytest.mark.parametrize("url", ["", "file:///etc/passwd", "http://", "https://a b", "https://a\n", "https://\ud800"])
def test_media_urls_that_are_none(url: str) -> None:
    """Something a phone can fetch, in one line."""
    with pytest.raises(AppError) as caught:
        decode_body(json.dumps({"text": "x", "mediaUrl": url}).encode(), NewMessage)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_binary_and_foreign_frames() -> None:
    """Each endpoint knows its own types."""
    with pytest.raises(AppError) as caught:
        decoder.decode(b"{}")
    assert caught.value.code is ErrorCode.INVALID_FRAME
    events: FrameDecoder[object] = FrameDecoder(EventsFrame)  # type: ignore[type-var]
    assert events.decode('{"type":"ping","ts":1.5,"more":[]}') == Ping(ts=1.5)
    with pytest.raises(AppError) as caught:
        events.decode(f'{{"type":"join","conversationId":"{ID}"}}')
    assert caught.value.code is ErrorCode.UNKNOWN_TYPE


def test_codes_tell_themselves_apart() -> None:
    """Two errors with one HTTP status are two errors; close codes are within what RFC 6455, section 7.4, allows."""
    assert len({code.name for code in ErrorCode}) == len(list(ErrorCode))
    assert ErrorCode.NOT_PARTICIPANT is not ErrorCode.FORBIDDEN
    assert all(1000 <= code <= 1015 or 4000 <= code <= 4999 for code in CloseCode)
    assert (store_unavailable().code.status, ErrorCode.RATE_LIMITED.status) == (503, 429)
