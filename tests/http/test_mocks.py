"""What respx and httpx mocks see of us and do to us, row by row: an update of theirs that changes any of it is noticed here.

The ways to a model through a mock are in ``test_transport``; replay through respx is in ``tests/recording``.
"""

from __future__ import annotations

import math

import httpx
import numpy as np
import pytest
import respx
import respx.mocks
import trio
import trio.testing
from tests.http.fakes import ASK, INFO, NEVER, URL, FakeHost, model_behind

from seedbed import TinyLM, connect, serve
from seedbed.errors import SeedbedError
from seedbed.http import TrioTransport

ROW = [0.0, 1.0, 2.0, 3.0]


async def check_row(model) -> None:
    assert (await model.next_token_logits([1])).tolist() == ROW


def mocked_client(**options) -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False, **options)


# What patches what.


async def test_the_default_mocker_sees_us_where_httpxs_own_transport_is_underneath() -> None:
    async with respx.mock() as router:
        route = router.route(host="model.test").mock(side_effect=FakeHost())
        async with connect(URL, transport=httpx.AsyncHTTPTransport(), decode_in_thread_above=math.inf) as model:
            await check_row(model)

        assert route.call_count == 3


async def test_what_a_mock_lets_pass_goes_through_the_clients_own_transport() -> None:
    async with serve(TinyLM()) as server, respx.mock(using="httpx") as router, mocked_client(transport=TrioTransport()) as client:
        passed = router.route(host="127.0.0.1").pass_through()
        async with connect(server.url, client=client) as model:
            assert (await model.next_token_logits([65])).shape == (257,)

        assert passed.call_count == 3
        assert server.requests == 3


async def test_a_mock_mounted_over_a_client_of_ours_answers() -> None:
    router = respx.Router()
    route = router.route(host="model.test").mock(side_effect=FakeHost())
    mounts = {"all://": httpx.MockTransport(router.async_handler)}
    async with (
        mocked_client(transport=TrioTransport(), mounts=mounts) as client,
        connect(URL, client=client, decode_in_thread_above=math.inf) as model,
    ):
        await check_row(model)

    assert route.call_count == 3


async def test_a_mocker_of_ones_own_can_patch_our_transport_by_its_path() -> None:
    """With respx's private interface, so the first to break; it sees even a transport called without any client."""

    class OfOurs(respx.mocks.AbstractRequestMocker):
        name = "seedbed-test"
        targets = ("seedbed.http.transport.TrioTransport",)
        target_methods = ("handle_async_request",)

        @classmethod
        def to_httpx_request(cls, *, request: httpx.Request, **kwargs) -> httpx.Request:
            return request

        @classmethod
        def from_sync_httpx_response(cls, response: httpx.Response, target, **kwargs) -> httpx.Response:
            return response

        @classmethod
        async def from_async_httpx_response(cls, response: httpx.Response, target, **kwargs) -> httpx.Response:
            return response

    async with respx.mock(using=OfOurs.name) as router:
        route = router.get("http://model.test/").respond(200, text="mocked")
        answer = await TrioTransport().handle_async_request(httpx.Request("GET", "http://model.test/"))
        assert (answer.text, route.call_count) == ("mocked", 1)


@pytest.mark.respx(using="httpx", assert_all_called=False)
async def test_the_fixture_can_be_told_by_its_marker(respx_mock: respx.MockRouter) -> None:
    respx_mock.get("http://never.test/")
    route = respx_mock.route(host="model.test").mock(side_effect=FakeHost())
    async with mocked_client() as client, connect(URL, client=client, decode_in_thread_above=math.inf) as model:
        await check_row(model)

    assert route.call_count == 3


async def test_mocks_inside_each_other_are_searched_in_turn() -> None:
    """They patch the class, so all mocks of a process see all clients; a router as a transport does not."""
    async with respx.mock(using="httpx", assert_all_called=False) as outer, respx.mock(using="httpx", assert_all_called=False) as inner:
        outer.route(host="model.test").mock(side_effect=FakeHost())
        inner.get("http://other.test/").respond(204)
        async with mocked_client() as client:
            async with connect(URL, client=client, decode_in_thread_above=math.inf) as model:
                await check_row(model)
            assert (await client.get("http://other.test/")).status_code == 204


# What a mock may do when it is asked.


async def test_what_a_side_effect_raises_comes_out_itself_and_is_not_tried_again() -> None:
    class Mine(Exception):
        pass

    async with model_behind(host := FakeHost()) as model:
        for raised in (Mine("mine"), ExceptionGroup("two", [Mine("one"), Mine("two")])):

            async def fail(request: httpx.Request, raised: Exception = raised) -> httpx.Response:
                raise raised

            router = respx.Router()
            route = router.route().mock(side_effect=fail)
            host.script = {ASK: router.async_handler}
            with pytest.raises(type(raised)) as caught:
                await model.next_token_logits([1])
            assert caught.value is raised
            assert route.call_count <= 1


async def test_a_side_effect_may_wait_and_have_tasks_of_its_own(autojump_clock) -> None:
    """Two hours cost no time, and no timeout of the client's strikes in a mock: ours are cancel scopes above it."""

    async def slowly(request: httpx.Request) -> httpx.Response:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(trio.sleep, 7200)
        return httpx.Response(200, json={"logits": ROW})

    async with respx.mock(using="httpx") as router, mocked_client(timeout=5) as client:
        router.route(path=ASK).mock(side_effect=slowly)
        router.route(host="model.test").mock(side_effect=FakeHost())
        async with connect(URL, client=client, decode_in_thread_above=math.inf, request_timeout=math.inf) as model:
            await check_row(model)
            assert trio.current_time() == 2 * 7200  # the probe is one

        with pytest.raises(SeedbedError, match="no whole answer within 60 s"):
            async with connect(URL, client=client, decode_in_thread_above=math.inf, retry=NEVER):
                pass


async def test_a_side_effect_that_returns_nothing_leaves_it_to_the_next_route() -> None:
    router = respx.Router()
    passed = router.route().mock(side_effect=lambda request: None)
    router.route().mock(side_effect=FakeHost())
    async with connect(URL, transport=httpx.MockTransport(router.async_handler), decode_in_thread_above=math.inf) as model:
        await check_row(model)
    assert passed.call_count == 3  # it was called


async def test_a_call_that_was_cancelled_is_not_counted() -> None:
    """So ``assert_all_called`` fails for a route that was only ever cancelled."""
    asked = trio.Event()

    async def hang(request: httpx.Request) -> httpx.Response:
        asked.set()
        await trio.sleep_forever()

    async with model_behind(host := FakeHost()) as model:
        router = respx.Router()
        route = router.route().mock(side_effect=hang)
        host.script = {ASK: router.async_handler}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(model.next_token_logits, [1])
            await asked.wait()
            nursery.cancel_scope.cancel()

        assert route.call_count == 0
        assert (model.statistics().under_way, model.statistics().waiting) == (0, 0)


@pytest.mark.parametrize("streams", [False, True])
async def test_every_octet_survives_whole_or_in_parts(streams: bool) -> None:
    body = np.frombuffer(bytes(range(256)) * 4, "<f4")
    row = np.where(np.isfinite(body), body, 0).astype("<f4")
    octets = row.tobytes()

    async def parts():
        for start in range(0, len(octets), 100):
            yield octets[start : start + 100]

    def answered(request: httpx.Request) -> httpx.Response:
        headers = {"content-type": "application/octet-stream", "seedbed-dtype": "float32"}
        return httpx.Response(200, headers=headers, content=parts() if streams else octets)

    router = respx.Router()
    router.route(path="/v1/model").respond(
        json={"model": "m", "vocab_size": row.size, "eos_token_ids": [0], "fingerprint": INFO.fingerprint}
    )
    router.route(path=ASK).mock(side_effect=answered)
    async with connect(URL, transport=httpx.MockTransport(router.async_handler), decode_in_thread_above=math.inf) as model:
        assert (await model.next_token_logits([1])).tobytes() == octets
