"""The two things that travel."""

from __future__ import annotations

from seedbed.protocols.exchange import HttpRequest, HttpResponse


def test_headers_are_found_in_any_case_the_first_one_first() -> None:
    """As HTTP has it; None when there is none."""
    response = HttpResponse(200, (("Content-Type", "a"), ("content-type", "b")))

    assert response.header("CONTENT-TYPE") == "a"
    assert HttpRequest("GET", "/", (("X", "1"),)).header("x") == "1"
    assert response.header("x") is None


def test_a_route_is_the_path_without_its_query() -> None:
    """Protocols compare routes, and a query does not make another one."""
    assert HttpRequest("GET", "/v1/models?a=b?c").route == "/v1/models"
    assert HttpRequest("GET", "/").route == "/"
