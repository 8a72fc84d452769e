"""Checks of what is stored against what was told: nothing acked is missing, nothing is there twice, seq has no gap.

Pure functions over the record, the database and what each device holds.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping

from chaos.findings import Finding, short, told
from chaos.record import Entry
from chaos.world import Stored, World

# {device: (its user, {conversation: {seq: message id}})}
Holdings = Mapping[str, tuple[str, Mapping[str, Mapping[int, str]]]]


def acked_is_stored(entries: list[Entry], stored: Stored) -> Finding:
    """Every message that was acked, over WebSocket or REST, is in the database at the place that the ack named."""
    places = {(message.id, message.conversation_id, message.seq) for message in stored.messages}
    finding = Finding("acked but missing", 0, [])
    for message in told(entries):
        if message.how == "new":
            continue
        finding.checked += 1
        if (message.message_id, message.conversation_id, message.seq) not in places:
            finding.breaches.append(
                f"{message.how} at {message.entry.at:.3f}: {short(message.message_id)} as"
                f" {short(message.conversation_id)}#{message.seq}, key {short(message.key)}"
            )
    return finding


def told_is_stored(entries: list[Entry], stored: Stored) -> Finding:
    """Every ``message.new`` is of a message that is stored, with this place, sender, key and text."""
    rows = {message.id: message for message in stored.messages}
    finding = Finding("told but not stored", 0, [])
    for message in told(entries):
        if message.how != "new":
            continue
        finding.checked += 1
        row = rows.get(message.message_id)
        place = f"{short(message.message_id)} as {short(message.conversation_id)}#{message.seq}"
        if row is None:
            finding.breaches.append(f"at {message.entry.at:.3f}: {place} is not in the database")
        elif (row.conversation_id, row.seq, row.sender_id, row.key, row.text) != (
            message.conversation_id, message.seq, message.sender_id, message.key, message.text,
        ):  # fmt: skip
            finding.breaches.append(f"at {message.entry.at:.3f}: {place} is stored otherwise, at #{row.seq}")
    return finding


def stored_once(stored: Stored) -> Finding:
    """Each (sender, key) is one row. A text begins with its key, so a key lost on the way shows as well."""
    counts = Counter((message.sender_id, message.text.split()[0]) for message in stored.messages)
    twice = [f"{short(sender)} {short(key)}: {count} rows" for (sender, key), count in counts.items() if count > 1]
    return Finding("stored twice", len(counts), twice)


def no_gaps(stored: Stored) -> Finding:
    """In each conversation ``seq`` is 1, 2, 3, … up to ``last_seq``, and time does not go back."""
    seqs: dict[str, list[int]] = defaultdict(list)
    times: dict[str, float] = {}
    finding = Finding("gap in seq", len(stored.messages), [])
    for message in stored.messages:  # in the order of seq
        seqs[message.conversation_id].append(message.seq)
        if message.created_at < times.get(message.conversation_id, 0.0):
            finding.breaches.append(f"{short(message.conversation_id)}#{message.seq}: time goes back")
        times[message.conversation_id] = message.created_at
    for conversation_id, last_seq in stored.last_seqs.items():
        found = seqs[conversation_id]
        if found != list(range(1, last_seq + 1)):
            missing = sorted(set(range(1, last_seq + 1)).difference(found))
            finding.breaches.append(
                f"{short(conversation_id)}: last_seq {last_seq}, {len(found)} rows, missing {missing[:10]}"
            )
    return finding


def one_place_a_key(entries: list[Entry]) -> Finding:
    """A (sender, key) is told with one place for ever, and acked without ``duplicate`` at most once."""
    places: dict[tuple[str, str], tuple[str, int, str]] = {}
    fresh: Counter[tuple[str, str]] = Counter()
    finding = Finding("another place for the same key", 0, [])
    for message in told(entries):
        finding.checked += 1
        key = (message.sender_id, message.key)
        place = (message.conversation_id, message.seq, message.message_id)
        if places.setdefault(key, place) != place:
            finding.breaches.append(
                f"at {message.entry.at:.3f}: key {short(message.key)} was"
                f" #{places[key][1]} {short(places[key][2])}, now #{message.seq} {short(message.message_id)}"
            )
        if message.how == "ack" and not message.duplicate:
            fresh[key] += 1
            if fresh[key] == 2:
                finding.breaches.append(f"at {message.entry.at:.3f}: key {short(message.key)} acked twice as new")
    return finding


def all_delivered(holdings: Holdings, stored: Stored, world: World) -> Finding:
    """At the end, everybody synced, each device holds exactly the messages of its user's conversations."""
    rows: dict[str, dict[int, str]] = defaultdict(dict)
    for message in stored.messages:
        rows[message.conversation_id][message.seq] = message.id
    finding = Finding("not delivered at the end", 0, [])
    for device, (user_id, held) in holdings.items():
        for conversation_id in world.of(user_id):
            wanted, has = rows[conversation_id], held.get(conversation_id, {})
            finding.checked += len(wanted)
            missing = sorted(wanted.keys() - has.keys())
            other = sorted(seq for seq, message_id in has.items() if wanted.get(seq) != message_id)
            if missing:
                finding.breaches.append(f"{device} lacks {short(conversation_id)}#{missing[:10]}")
            if other:
                finding.breaches.append(
                    f"{device} holds others than the database at {short(conversation_id)}#{other[:10]}"
                )
    return finding


def all_settled(unacked: Mapping[str, int], sent: int) -> Finding:
    """Nobody is left with a message that was never acked. ``unacked``: how many, by device."""
    left = [f"{device}: {count} never acked" for device, count in unacked.items() if count]
    return Finding("never acked, though sent again and again", sent, left)
