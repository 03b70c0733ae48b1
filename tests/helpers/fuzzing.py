"""Damage to files, and a limit to how long and how large an answer to it may get."""

import contextlib
import resource
import signal
from collections.abc import Iterator
from random import Random

SECONDS = 20  # for one answer
MEMORY = 6 << 30  # bytes of address space beyond what the process has
STATM = "/proc/self/statm"


class TooLong(BaseException):
    """Something hangs."""


@contextlib.contextmanager
def limits(memory: int = MEMORY) -> Iterator[None]:
    """What takes longer than SECONDS raises TooLong, what takes more than memory MemoryError."""

    def stop(*_: object) -> None:
        raise TooLong(f"no answer within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open(STATM) as f:
        pages = int(f.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, hard))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def damaged(content: bytes, random: Random) -> bytes:
    """The content with one to three damages: bits, bytes, numbers, pieces lost, doubled, moved."""
    for _ in range(random.choice((1, 1, 2, 3))):
        content = random.choice(DAMAGES)(content, random)
    return content


def _place(content: bytes, random: Random) -> int:
    """Mostly in the header."""
    most = len(content) if random.random() < 0.5 else min(len(content), 200)
    return random.randrange(max(1, most))


def _flip(content: bytes, random: Random) -> bytes:
    place = _place(content, random)
    byte = content[place : place + 1] or b"\0"
    return content[:place] + bytes([byte[0] ^ 1 << random.randrange(8)]) + content[place + 1 :]


def _number(content: bytes, random: Random) -> bytes:
    """A number of one to eight bytes becomes an extreme one."""
    place = _place(content, random)
    length = random.choice((1, 2, 4, 8))
    extreme = random.choice((b"\0", b"\xff", b"\x7f", b"\x80"))
    return content[:place] + extreme * length + content[place + length :]


def _digits(content: bytes, random: Random) -> bytes:
    """A digit of a text becomes another text."""
    places = [i for i, byte in enumerate(content[:5000]) if 48 <= byte < 58]
    if not places:
        return _number(content, random)
    place = random.choice(places)
    text = random.choice((b"-1", b"0", b"1e308", b"nan", b"99999999999999999999", b"", b"'"))
    return content[:place] + text + content[place + 1 :]


def _cut(content: bytes, random: Random) -> bytes:
    return content[: _place(content, random)]


def _lose(content: bytes, random: Random) -> bytes:
    place = _place(content, random)
    return content[:place] + content[place + random.randrange(1, 100) :]


def _double(content: bytes, random: Random) -> bytes:
    place = _place(content, random)
    end = place + random.randrange(1, 100)
    return content[:end] + content[place:]


def _noise(content: bytes, random: Random) -> bytes:
    place = _place(content, random)
    length = random.randrange(1, 60)
    return content[:place] + random.randbytes(length) + content[place + length :]


DAMAGES = (_flip, _flip, _number, _number, _digits, _cut, _lose, _double, _noise)
