"""Replies, however they are cut into packets."""

from __future__ import annotations

import random

import pytest

from pipeline.errors import StoreFullError, StoreUnavailableError
from pipeline.state.batch import PackedRows
from pipeline.store.replies import error_of, root_cause
from pipeline.store.wire import Replies, ServerError, bulks, command


class Script:
    """A link that receives prepared bytes in pieces."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.data = data
        self.sizes = sizes
        self.closed = False

    def send(self, data: memoryview) -> None:
        raise AssertionError("nothing is sent here")

    def receive(self, into: memoryview) -> int:
        if not self.data:
            raise StoreUnavailableError("end")
        size = min(self.sizes.pop() if self.sizes else len(self.data), len(self.data), len(into))
        into[:size] = self.data[:size]
        self.data = self.data[size:]
        return size

    def arrived(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


WIRE = (
    b"+OK\r\n"
    b"-OOM command not allowed\r\n"
    b":-12\r\n"
    b"$5\r\na\r\nbc\r\n"
    b"$-1\r\n"
    b"*-1\r\n"
    b"*2\r\n*1\r\n:1\r\n$0\r\n\r\n"
    b"*3\r\n$1\r\nx\r\n$-1\r\n$300000\r\n" + b"\r" * 300_000 + b"\r\n"
    b"*0\r\n"
    b"-ERR no\r\n"
    b"+" + b"long" * 400 + b"\r\n"
)


@pytest.mark.parametrize("seed", range(8))
def test_replies_in_pieces(seed: int) -> None:
    chance = random.Random(seed)
    sizes = [chance.choice((1, 1, 2, 3, 50, 5000)) for _ in range(20_000)]
    replies = Replies(Script(WIRE, sizes if seed else []))
    assert [replies.read() for _ in range(7)] == [
        b"OK",
        ServerError("OOM command not allowed"),
        -12,
        b"a\r\nbc",
        None,
        None,
        [[1], b""],
    ]
    assert replies.read_bulks() == [b"x", None, b"\r" * 300_000]
    assert replies.read_bulks() == []
    assert replies.read_bulks() == ServerError("ERR no")
    assert replies.read() == b"long" * 400
    with pytest.raises(StoreUnavailableError, match="end"):
        replies.read()


@pytest.mark.parametrize("seed", range(8))
def test_rows_in_pieces_come_as_columns(seed: int) -> None:
    chance = random.Random(seed)
    values = [
        chance.choice((None, b"", chance.randbytes(chance.randrange(400)))) for _ in range(99)
    ]
    wire = b"*99\r\n" + b"".join(
        b"$-1\r\n" if v is None else b"$%d\r\n%b\r\n" % (len(v), v) for v in values
    )
    sizes = [chance.choice((1, 2, 50, 5000)) for _ in range(40_000)]
    replies = Replies(Script(wire + b"*0\r\n-ERR no\r\n*1\r\n+OK\r\n", sizes if seed else []))
    rows = replies.read_packed()
    assert not isinstance(rows, ServerError)
    assert list(rows) == values
    assert len(PackedRows.of(values).data) == len(rows.data) == rows.offsets[-1]
    none = replies.read_packed()
    assert not isinstance(none, ServerError)
    assert list(none) == []
    assert replies.read_packed() == ServerError("ERR no")
    with pytest.raises(StoreUnavailableError, match="Redis protocol"):
        replies.read_packed()


@pytest.mark.parametrize("seed", range(8))
def test_replies_that_are_foreseen_are_taken_or_left_as_a_whole(seed: int) -> None:
    chance = random.Random(seed)
    sizes = [chance.choice((1, 2, 3, 50)) for _ in range(200)]
    replies = Replies(Script(b"+OK\r\n*2\r\n$1\r\nx\r\n$-1\r\n-ERR no\r\n", sizes if seed else []))
    assert not replies.skip(b"+QUEUED\r\n")
    assert not replies.skip(b"+OK\r\n" + bulks([b"y", None]))
    assert replies.skip(b"")
    assert replies.skip(b"+OK\r\n" + bulks([b"x", None]))
    assert not replies.skip(b"+OK\r\n")
    assert replies.read() == ServerError("ERR no")
    with pytest.raises(StoreUnavailableError, match="end"):
        replies.skip(b"+OK\r\n")


@pytest.mark.parametrize("wire", [b"HTTP/1.1 400\r\n", b":x\r\n", b"a\n", b"*1\r\n+OK\r\n"])
def test_answers_of_another_protocol(wire: bytes) -> None:
    link = Script(wire, [])
    with pytest.raises(StoreUnavailableError, match="Redis protocol"):
        Replies(link).read_bulks()
    assert link.closed


def test_command() -> None:
    assert command(b"SET", b"", b"\r\n") == b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$2\r\n\r\n\r\n"


def test_cause_of_an_aborted_transaction() -> None:
    aborted = ServerError("EXECABORT Transaction discarded because of previous errors.")
    refused = ServerError("READONLY You can't write against a read only replica.")
    assert root_cause(aborted, refused) is refused
    assert root_cause(aborted, None) is aborted
    full = ServerError("EXECABORT Transaction discarded because of: OOM command not allowed.")
    assert root_cause(full, None).code == "OOM"


@pytest.mark.parametrize(
    ("text", "kind", "advice"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", StoreFullError, "maxmemory"),
        ("MOVED 3999 127.0.0.1:6381", StoreUnavailableError, "another node"),
        ("LOADING Redis is loading the dataset in memory", StoreUnavailableError, "wait"),
        ("CLUSTERDOWN The cluster is down", StoreUnavailableError, "CLUSTER INFO"),
        ("SOMETHING new", StoreUnavailableError, "log"),
    ],
)
def test_errors_say_what_to_do(text: str, kind: type[Exception], advice: str) -> None:
    error = error_of(ServerError(text), "redis://host:1")
    assert type(error) is kind
    assert advice in str(error)
    assert "redis://host:1" in str(error)
