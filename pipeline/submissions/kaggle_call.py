"""The `kaggle` client in a process of its own: `python -m pipeline.submissions.kaggle_call`.

The client authenticates when it is imported, prints where it should raise, retries for minutes and has
no time limit: here it can be stopped. A line of json on stdin is a request, a line on stdout its answer:
{"ok": ...} or {"fault": kind, "reason": text}, where a kind is

    credentials  the site knows no such user, or there are none here
    refused      the site says no (its status and words are the reason)
    limit        too many requests or submissions
    upload       the file did not arrive; the client then asks for no submission
    unclear      no answer, or the site's own error: whether it has the submission is not known
"""

import contextlib
import json
import sys
from typing import Any

REFUSALS = {401: "credentials", 403: "credentials", 429: "limit"}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what the request says ({"do": "submit" | "submit_code" | "list" | "limits", ...})."""
    import kaggle
    from requests.exceptions import RequestException

    _check_answers()
    api = kaggle.api
    if "auth_method" not in api.config_values:
        return {
            "fault": "credentials",
            "reason": "no credentials; see kaggle.com/settings, API, and put "
            "kaggle.json into ~/.kaggle or set KAGGLE_USERNAME and KAGGLE_KEY",
        }
    try:
        return _call(api, request)
    except RequestException as error:
        status = error.response.status_code if error.response is not None else None
        reason = " ".join(str(error).split()).split("(Caused by ")[-1][:300]
        if status is None or status >= 500:
            return {"fault": "unclear", "reason": reason}
        return {"fault": REFUSALS.get(status, "refused"), "reason": f"{status}: {reason}"}
    except ValueError as error:  # an answer that is no json
        return {"fault": "unclear", "reason": " ".join(str(error).split())[:300]}


def _check_answers() -> None:
    """Have the client refuse, as ValueError, what it would take for an empty list of submissions."""
    from kagglesdk.kaggle_object import KaggleObject

    def from_json(cls: Any, text: str) -> Any:
        value = json.loads(text)
        listed = value.get("submissions", []) if isinstance(value, dict) else None
        if not isinstance(listed, list) or not all(isinstance(i, dict) and i.get("ref") for i in listed):
            raise ValueError(f"an answer of another form than expected: {text[:80]}")
        # {} is an empty list: the site's messages are those of protobuf, which leaves out what is empty, and
        # kagglesdk reads and writes them so. `submit` believes it only where nothing may have been sent.
        known = {"submissions", "nextPageToken"} & set(value)
        if cls.__name__ == "ApiListSubmissionsResponse" and value and not known:
            raise ValueError(f"an answer without a list of submissions: {text[:80]}")
        return cls.from_dict(value)

    KaggleObject.from_json = classmethod(from_json)


def _printable(value: Any) -> Any:
    """What the site says, as a terminal can show it: no control characters in any text of an answer."""
    if isinstance(value, dict):
        return {key: _printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, str) and not value.isprintable():
        return "".join(c if c.isprintable() else " " for c in value)
    return value


def _call(api: Any, request: dict[str, Any]) -> dict[str, Any]:
    competition = request["competition"]
    if request["do"] == "list":
        items = api.competition_submissions(competition, page_size=request.get("count", 100)) or []
        return {"ok": [_as_json(item) for item in items if item is not None]}
    if request["do"] == "limits":
        limits = api.competition_get_submission_limits(competition)
        return {"ok": {"left": limits.num_allowed_now, "today": limits.num_today, "total": limits.num_total}}
    if request["do"] == "submit_code":
        made = api.competition_submit_code(
            request["file"], request["message"], competition, request["kernel"], request["version"], True
        )
    else:
        made = api.competition_submit(request["file"], request["message"], competition, quiet=True)
    # A PUT of the file that fails raises nothing: the answer then has no number.
    if made.message == api.COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE:
        return {"fault": "upload", "reason": made.message}
    if not made.ref:
        return {"fault": "unclear", "reason": made.message or "the site gave no number"}
    return {"ok": {"ref": str(made.ref), "message": made.message}}


def _as_json(item: Any) -> dict[str, Any]:
    return {
        "ref": str(item.ref),
        "status": item.status.name.lower(),
        "message": str(item.description or ""),
        "error": str(item.error_description or ""),
        "file": str(item.file_name or ""),
        "bytes": item.total_bytes,
        "public": str(item.public_score or ""),
        "private": str(item.private_score or ""),
        "time": item.date.strftime("%Y-%m-%dT%H:%M:%SZ") if item.date else "",
    }


def main() -> None:
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # what the client prints
        for line in sys.stdin:
            print(json.dumps(_printable(answer(json.loads(line)))), file=answers, flush=True)


if __name__ == "__main__":
    main()
