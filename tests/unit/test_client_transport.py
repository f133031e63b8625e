"""Attempts, limits and errors of the HTTP client, against schedules of answers; both transports do the same."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from cluster.client.address import checked_address, is_loopback
from cluster.client.call import Call, Operation, Reply
from cluster.client.retry import RetryPolicy
from cluster.client.transport import Options
from shard import errors
from tests.unit.client_calls import Played, good, problem


def once(call: Call) -> Operation[Reply]:
    """One call, and its answer."""
    return (yield call)


READ = Call("GET", "/v1/whoami")
WRITE = Call("POST", "/v1/x", is_idempotent=False)
KEYED = Call("POST", "/v1/x", headers={"Idempotency-Key": "k1"}, body=b"{}")
BUSY = {"is_retryable": True}


@pytest.fixture(params=["run", "run_async"])
def play(request: pytest.FixtureRequest) -> Callable[..., tuple[Played, Callable[[], Any]]]:
    """A schedule, and what runs a call over it."""

    def start(call: Call, *schedule: Any, **options: Any) -> tuple[Played, Callable[[], Any]]:
        played = Played(schedule)
        return played, lambda: getattr(played, request.param)(once(call), **options)

    return start


@pytest.mark.parametrize(
    "fault",
    [
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("disconnected"),
        httpx.ReadTimeout("late"),
        problem(503, "host_busy", **BUSY),
        problem(504, "deadline_exceeded", **BUSY),
        problem(429, "rate_limited", **BUSY),
        httpx.Response(502, text="<html>bad gateway"),
    ],
    ids=lambda f: type(f).__name__ if isinstance(f, Exception) else str(f.status_code),
)
def test_what_may_pass_is_sent_again(play: Any, fault: Any) -> None:
    played, run = play(KEYED, fault, fault, good())
    assert run().attempts == 3
    assert {request.headers["idempotency-key"] for request in played.requests} == {"k1"}
    assert [request.content for request in played.requests] == [b"{}"] * 3
    assert played.clock.pauses == [0.5, 1.0]  # half of 1 s and of 2 s


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (problem(404, "unknown_gallery"), errors.UnknownGallery),
        (problem(409, "duplicate_template"), errors.DuplicateTemplate),
        (problem(422, "invalid_parameter"), errors.InvalidParameter),
        (problem(401, "unauthenticated"), errors.Unauthenticated),
        (problem(503, "corrupt_data"), errors.CorruptData),
        (problem(409, "out_of_step", **BUSY), errors.OutOfStep),
        (problem(500, "internal_error"), errors.FacegridError),
        (httpx.Response(307, headers={"location": "http://elsewhere.test/"}), errors.ProtocolError),
        (httpx.Response(404, text="no"), errors.ProtocolError),
        (httpx.UnsupportedProtocol("what"), errors.ProtocolError),
    ],
)
def test_what_will_not_pass_is_said_at_once(play: Any, answer: Any, expected: type[Exception]) -> None:
    played, run = play(READ, answer)
    with pytest.raises(expected) as caught:
        run()
    assert type(caught.value) is expected
    assert len(played.requests) == 1


def test_attempts_end(play: Any) -> None:
    played, run = play(READ, *[httpx.ConnectError("refused")] * 9)
    with pytest.raises(errors.HostUnavailable, match="refused"):
        run()
    assert (len(played.requests), played.clock.pauses) == (4, [0.5, 1.0, 2.0])


def test_what_could_be_done_twice_is_not_sent_again(play: Any) -> None:
    for fault in (httpx.ReadError("reset"), httpx.ReadTimeout("late"), problem(503, "host_busy", **BUSY)):
        played, run = play(WRITE, fault, good())
        with pytest.raises(errors.ClusterError):
            run()
        assert len(played.requests) == 1
    for fault in (httpx.ConnectError("refused"), httpx.ConnectTimeout("late"), problem(429, "rate_limited", **BUSY)):
        played, run = play(WRITE, fault, good())
        assert run().attempts == 2, "nothing of it was done"


def test_a_removal_that_finds_nothing_when_repeated_was_done(play: Any) -> None:
    drop = Call("DELETE", "/v1/galleries/a/b", is_done_when_gone=True)
    gone = problem(404, "unknown_gallery")
    _, run = play(drop, httpx.ReadError("reset"), gone)
    assert run().status == 204
    for schedule in ([gone], [httpx.ConnectError("refused"), gone]):
        _, run = play(drop, *schedule)
        with pytest.raises(errors.UnknownGallery):
            run()


def test_waits_as_long_as_the_service_says(play: Any) -> None:
    said = problem(429, "rate_limited", is_retryable=True, retry_after_s=7.25, headers={"retry-after": "8"})
    by_header = httpx.Response(503, headers={"retry-after": "3"})
    by_date = httpx.Response(503, headers={"retry-after": "Thu, 01 Jan 1970 00:17:30 GMT"})  # 1,050 s
    played, run = play(READ, said, by_header, by_date, good())
    run()
    first, second, third = played.clock.pauses
    assert (first, second) == (7.75, 4.0)
    assert third == pytest.approx(1_050 - (1_000 + first + second) + 2.0)


def test_gives_up_rather_than_wait_past_the_deadline(play: Any) -> None:
    said = problem(429, "rate_limited", is_retryable=True, retry_after_s=600)
    played, run = play(READ, said, good())
    with pytest.raises(errors.RateLimited) as caught:
        run()
    assert caught.value.retry_after_s == 600
    assert played.clock.pauses == []


def test_the_deadline_bounds_all_attempts_together(play: Any) -> None:
    def slow(_: httpx.Request) -> httpx.Response:
        played.clock.now += 30
        raise httpx.ReadTimeout("late")

    policy = RetryPolicy(attempts=100, base_s=1, cap_s=1, deadline_s=70)
    played, run = play(READ, *[slow] * 100, retry=policy)
    with pytest.raises(errors.DeadlineExceeded):
        run()
    assert len(played.requests) == 3
    timeouts = [request.extensions["timeout"]["read"] for request in played.requests]
    assert timeouts == [30.0, 30.0, 9.0], "the last attempt has what is left"


def test_a_call_of_its_own_patience(play: Any) -> None:
    played, run = play(Call("POST", "/v1/x", patience_s=500.0), good())
    run()
    timeout = played.requests[0].extensions["timeout"]
    assert (timeout["read"], timeout["connect"]) == (500.0, 5.0)


def test_a_call_with_a_deadline_of_its_own(play: Any) -> None:
    def slow(_: httpx.Request) -> httpx.Response:
        played.clock.now += 10
        return problem(504, "deadline_exceeded", is_retryable=True)

    played, run = play(Call("POST", "/v1/search", patience_s=15.0, deadline_s=15.0), *[slow] * 9)
    with pytest.raises(errors.DeadlineExceeded):
        run()
    assert [request.extensions["timeout"]["read"] for request in played.requests] == [15.0, 4.5]


def endless() -> Iterator[bytes]:
    while True:
        yield b"x" * 1000


class Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that does not end."""

    def __iter__(self) -> Iterator[bytes]:
        return endless()

    async def __aiter__(self) -> Any:
        for chunk in endless():
            yield chunk


def test_answers_are_bounded(play: Any) -> None:
    for answer in (
        httpx.Response(200, stream=Stream()),
        httpx.Response(200, stream=Stream(), headers={"content-length": "999999999"}),
        httpx.Response(200, stream=Stream(), headers={"content-encoding": "gzip"}),
    ):
        played, run = play(READ, answer, max_response_bytes=100_000)
        with pytest.raises(errors.ProtocolError, match=r"at most 100,000 bytes|not compressed"):
            run()
        assert len(played.requests) == 1


def test_an_answer_that_drips_is_given_up(play: Any) -> None:
    class Dripping(Stream):
        def __iter__(self) -> Iterator[bytes]:
            for chunk in endless():
                played.clock.now += 10
                yield chunk

        async def __aiter__(self) -> Any:
            for chunk in self:
                yield chunk

    policy = RetryPolicy(attempts=1, base_s=1, cap_s=1, deadline_s=30)
    played, run = play(READ, httpx.Response(200, stream=Dripping()), retry=policy)
    with pytest.raises(errors.DeadlineExceeded):
        run()


def test_a_certificate_that_is_not_trusted_is_no_fault_that_passes(play: Any) -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        try:
            raise ssl.SSLCertVerificationError("self-signed certificate")
        except ssl.SSLError as error:
            raise httpx.ConnectError(str(error)) from error

    played, run = play(READ, refuse)
    with pytest.raises(errors.AuthenticationFailed, match="self-signed"):
        run()
    assert len(played.requests) == 1


def test_problem_documents_become_the_errors_of_their_codes(play: Any) -> None:
    _, run = play(READ, problem(422, "invalid_image", reason="no_face"))
    with pytest.raises(errors.InvalidImage) as refused:
        run()
    assert (refused.value.reason, str(refused.value)) == ("no_face", "about invalid_image")
    _, run = play(READ, problem(400, "malformed_request"))
    with pytest.raises(errors.FacegridError, match="malformed_request: about"):
        run()
    for body in (b"{", b"[]", b'{"code": 1}', b"[" * 100_000):
        content_type = {"content-type": "application/problem+json"}
        _, run = play(READ, httpx.Response(400, content=body, headers=content_type))
        with pytest.raises(errors.ProtocolError):
            run()


def test_an_operation_sees_the_error_of_its_call(play: Any) -> None:
    def forgiving() -> Operation[str]:
        try:
            yield READ
        except errors.UnknownGallery:
            reply = yield KEYED
            return f"{reply.status}"
        return "found"

    assert Played([problem(404, "unknown_gallery"), good(status=201)]).run(forgiving()) == "201"
    assert Played([problem(404, "unknown_gallery"), good(status=201)]).run_async(forgiving()) == "201"


def test_every_request_carries_the_key_and_nothing_shows_it() -> None:
    played = Played([good(), httpx.ConnectError("refused")])
    transport = played.blocking(key="fg_0_secret", retry=RetryPolicy(attempts=1))
    transport.run(once(READ))
    request = played.requests[0]
    assert request.headers["authorization"] == "Bearer fg_0_secret"
    assert request.headers["accept-encoding"] == "identity"
    with pytest.raises(errors.HostUnavailable) as caught:
        transport.run(once(READ))
    shown = [repr(transport), repr(transport._address), str(caught.value), repr(caught.value)]
    assert not any("secret" in text for text in shown)


def test_a_closed_client_says_so() -> None:
    transport = Played([]).blocking()
    transport.close()
    transport.close()
    with pytest.raises(errors.ShardClosed):
        transport.run(once(READ))


@pytest.mark.parametrize(
    "url",
    ["", "localhost:80", "ftp://h", "http://", "http://h:99999", "http://u:p@h", "http://h/?a=1", "http://h/#x", 5,
     "http://[::1"],
)  # fmt: skip
def test_addresses_that_are_none(url: Any) -> None:
    with pytest.raises(errors.InvalidParameter) as caught:
        checked_address(url, "fg_secret", allow_insecure=True)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "a b", "a\nb", "schlüssel-secret", "s" * 1000, b"secret"])
def test_keys_that_are_none(key: Any) -> None:
    with pytest.raises(errors.InvalidParameter) as caught:
        checked_address("https://h", key, allow_insecure=False)
    assert "secret" not in str(caught.value)


def test_a_key_does_not_travel_in_the_clear() -> None:
    for host in ("faces.example.org", "10.0.0.1", "[2001:db8::1]", "127.0.0.1.example.org", "localhost.example.org"):
        with pytest.raises(errors.InvalidParameter, match="plain http"):
            checked_address(f"http://{host}", "key", allow_insecure=False)
        assert checked_address(f"http://{host}", "key", allow_insecure=True)
        assert checked_address(f"http://{host}", None, allow_insecure=False)
        assert checked_address(f"https://{host}", "key", allow_insecure=False)
    for host in ("localhost", "127.0.0.1", "[::1]", "127.8.9.1"):
        assert (
            checked_address(f"http://{host}:80/prefix/", "key", allow_insecure=False).base == f"http://{host}:80/prefix"
        )
    assert not is_loopback("::2")


@pytest.mark.parametrize(
    "make",
    [
        lambda: RetryPolicy(attempts=0),
        lambda: RetryPolicy(base_s=0),
        lambda: RetryPolicy(deadline_s=float("inf")),
        lambda: Options(timeout_s=0),
        lambda: Options(timeout_s=float("nan")),
        lambda: Options(max_response_bytes=-1),
        lambda: Options(verify="/nowhere/ca.pem").httpx(),
    ],
)
def test_options_out_of_range(make: Callable[[], object]) -> None:
    with pytest.raises(errors.InvalidParameter):
        make()
