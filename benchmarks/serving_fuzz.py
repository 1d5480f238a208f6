"""Requests that schemathesis makes of the server's OpenAPI description: none may end in a server error.

In: how many calls. Out: a line of JSON with calls, statuses and failures; exit code 1 if there is a failure.
Checked of every answer: no 5xx, a documented status, the documented content type and shape.
Be careful: generated texts are short and most requests are refused; load is what serving_load.py is for.
"""

import argparse
import json
import sys
import time
from collections import Counter
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

import serving_bench

PATIENCE = 600
"""Seconds an answer may take: some ask for many long texts, and the machine may be busy."""
SHORT = 16
"""Tokens a text may have that is written: long ones would take nearly all of the time."""
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def fuzz(url: str, calls: int, seed: int = 0, seconds: float = float("inf")) -> dict[str, Any]:
    """Calls every route about equally often. A route with few possible calls leaves its share to further seeds.

    Args:
        url: of a server on the loopback interface, without /v1.
        calls: altogether.
        seed: of the generator; the same seed makes the same calls.
        seconds: stop after this long.

    Returns:
        calls, statuses by count, failures with the request that caused them.
    """
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    statuses: Counter[int] = Counter()
    failures: list[str] = []
    end, before = time.monotonic() + seconds, -1
    modes = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
    while before < (made := sum(statuses.values())) < calls and time.monotonic() < end:
        before, each = made, max(1, (calls - made) // (len(operations) * len(modes)))
        for operation in operations:
            for mode in modes:
                try:
                    _run(operation.as_strategy(generation_mode=mode), each, seed, statuses, failures, end)
                except Exception as error:
                    if "Impossible" not in str(error) and "Unsatisfiable" not in type(error).__name__:
                        failures.append(f"{operation.label}: {type(error).__name__}: {error}"[:500])
                said = f"{sum(statuses.values())} calls, {len(failures)} failures"
                sys.stderr.write(f"seed {seed}, {operation.label} {mode.name}: {said}\n")
        seed += 1
    return {"calls": sum(statuses.values()), "statuses": dict(sorted(statuses.items())), "failures": failures}


def _run(strategy: Any, calls: int, seed: int, statuses: Counter[int], failures: list[str], end: float) -> None:  # noqa: ANN401
    import hypothesis

    @hypothesis.seed(seed)
    @settings(
        max_examples=calls,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def call(case: Any) -> None:  # noqa: ANN401
        if time.monotonic() > end:
            return
        try:
            answer = case.call(timeout=PATIENCE)
        except requests.exceptions.RequestException as error:  # the next calls are made all the same
            failures.append(
                f"{case.method} {case.path} {case.body!r}"[:500] + f" -> {type(error).__name__}: {error}"[:400]
            )
            return
        statuses[answer.status_code] += 1
        try:
            case.validate_response(answer, checks=CHECKS)
        except BaseException as error:
            failures.append(
                f"{case.method} {case.path} {case.body!r}"[:500] + f" -> {answer.status_code} {error}"[:900]
            )

    call()


def main() -> None:
    """Runs it on the packaged backbone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    given_ = parser.parse_args()
    with serving_bench.server("--timeout", str(PATIENCE), "--max-new-tokens", str(SHORT)) as url:
        start = time.monotonic()
        found = fuzz(url, given_.calls, given_.seed, given_.seconds)
    print(json.dumps({**found, "seconds": round(time.monotonic() - start)}))  # noqa: T201
    sys.exit(bool(found["failures"]))


if __name__ == "__main__":
    main()
