"""How schemathesis writes what it makes up."""

from typing import Any

import schemathesis


@schemathesis.hook  # type: ignore[untyped-decorator]
def map_body(_context: Any, body: Any) -> Any:
    """Write whole numbers as such: to JSON Schema 1.0 is an integer, and to the server it is none."""
    if isinstance(body, dict):
        return {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in body.items()
        }
    return body


@schemathesis.hook  # type: ignore[untyped-decorator]
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Make time zones real ones: which there are is known to the machine, not to the document."""
    hours = case.body.get("quietHours") if isinstance(case.body, dict) else None
    if isinstance(hours, dict) and isinstance(hours.get("timeZone"), str) and len(hours["timeZone"]) <= 64:
        case.body = {**case.body, "quietHours": {**hours, "timeZone": "Europe/Berlin"}}
