"""JSON, packed files and archives that somebody else wrote, read within bounds.

A few bytes can take hours or all memory: lists in lists a thousand deep, a number of a million digits, 10 MB of gzip
that hold 10 GB. What no honest file needs is refused here, before anything else walks over it. Nothing is cut: a value
is read whole or refused, with the place where it breaks the bound. YAML has its own module, `bounded_yaml`.

`parse_json` raises what `json.loads` raises, and nothing else, so a caller that reports a broken file needs no second
branch. The bounds are the constants below; none of them is an option.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import stat
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from seal_lightning.errors import DataError, SealError, reason_of

DEPTH = 100  # levels of lists and objects in each other
DIGITS = 300  # of a whole number: more are beyond any float, and slow to read and write
LARGEST = 4 << 30  # bytes of a file, or of what is packed in it
RATIO = 200  # bytes out of one byte of a packed file; text packs to a fifth, a journal to a fiftieth
FREE = 64 << 20  # bytes up to which no ratio is looked at
LARGEST_ARCHIVE = 1 << 30  # bytes in all the files of one Word or EPUB document
MEMBERS = 20_000  # files in one such document
_CHUNK = 1 << 20
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)  # the texts and brackets of JSON
_ZIP_ADVICE = "write the document again, without what makes it so large"


class PackedTooWell(ValueError):
    """The packed content is larger than that of any honest file of this size."""


# -- JSON --------------------------------------------------------------------------------------------------------------


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text, as `json.loads` gives it.

    >>> parse_json("[" * 101 + "]" * 101)
    Traceback (most recent call last):
    json.decoder.JSONDecodeError: lists and objects nested more than 100 deep: line 1 column 101 (char 100)

    Raises:
        json.JSONDecodeError: The text is not JSON, is nested too deeply, has a whole number of too many digits, or is
            too large for memory.
    """
    try:
        document = text if isinstance(text, str) else text.decode(json.detect_encoding(text))
    except UnicodeDecodeError as error:
        where = f"byte {error.object[error.start]:#04x} at offset {error.start} is not text"
        raise json.JSONDecodeError(where, "", 0) from None

    def whole_number(digits: str) -> int:
        if len(digits) > DIGITS:
            raise json.JSONDecodeError(f"a number of more than {DIGITS} digits", document, document.find(digits))
        return int(digits)

    try:
        value = json.loads(document, parse_int=whole_number)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise _too_deep(document) from None
    except MemoryError:
        raise json.JSONDecodeError("more than fits into memory", "", 0) from None
    if document.count("[") + document.count("{") > DEPTH and depth_exceeds(value, DEPTH):
        raise _too_deep(document)
    return value


def depth_exceeds(value: object, most: int) -> bool:
    """Whether lists and mappings are nested more than `most` deep in a value; it is walked without recursion."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(most):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return bool(level)


def _too_deep(document: str) -> json.JSONDecodeError:
    """The error at the bracket that opens one level too many."""
    depth, place = 0, 0
    for part in _STRUCTURE.finditer(document):
        depth, place = depth + (part[0] in "[{") - (part[0] in "]}"), part.start()
        if depth > DEPTH:
            break
    return json.JSONDecodeError(f"lists and objects nested more than {DEPTH} deep", document, place)


# -- files -------------------------------------------------------------------------------------------------------------


def read_bytes(path: Path, *, error: type[SealError] = DataError) -> bytes:
    """The content of a file; of one that ends in .gz, what is packed in it.

    Args:
        path: The file. A pipe or a device is refused: it may never end, and cannot be read twice.
        error: What is raised, in one line that names the file.
    """
    try:
        check_plain(path, error=error)
        with path.open("rb") as file:
            return unpack(file) if path.suffix.lower() == ".gz" else file.read()
    except SealError:
        raise
    except FileNotFoundError:
        raise error(f"{path}: expected a file, got nothing there: check the path") from None
    except PackedTooWell as reason:
        raise error(f"{path}: expected at most {reason}: unpack it with gunzip if you trust it") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as reason:
        raise error(f"{path}: expected a whole gzip file, got: {reason}: pack or copy it again") from None
    except MemoryError:
        raise error(f"{path}: expected a file that fits into memory, got a larger one: split it") from None
    except (OSError, ValueError) as reason:  # ValueError: a NUL character in the path
        got = reason_of(reason)
        raise error(f"{path}: expected a file that can be read, got: {got}: check path and permissions") from None


def read_stdin(stream: BinaryIO) -> bytes:
    """The whole content of standard input.

    Raises:
        DataError: Standard input cannot be read, or has more than `LARGEST` bytes, which are not waited for.
    """
    try:
        data = stream.read(LARGEST + 1)
    except OSError as error:
        raise DataError(f"-: standard input cannot be read ({error.strerror}): pipe a document into it") from error
    except MemoryError:
        data = None
    if data is None or len(data) > LARGEST:
        raise DataError(f"-: expected at most {_size(LARGEST)} on standard input, got more: save it in several files")
    return data


def read_json(path: Path, *, error: type[SealError] = DataError) -> Any:
    """The value of a JSON file. Raises `error`, in one line that names file, line and column."""
    try:
        return parse_json(read_bytes(path, error=error))
    except json.JSONDecodeError as reason:
        where = f"{path}, line {reason.lineno}"
        raise error(
            f"{where}: expected JSON, got: {reason.msg} (column {reason.colno}): repair the file or write it again"
        ) from None


def check_plain(path: Path, *, error: type[SealError] = DataError) -> None:
    """Raises `error` for a pipe, a device or more than `LARGEST` bytes; `OSError` as `stat` does. A folder passes."""
    if kind := special_kind(path):
        raise error(f"{path}: expected a file, got {kind}: save it as a file and name that")
    if (size := path.stat().st_size) > LARGEST:
        raise error(f"{path}: expected at most {_size(LARGEST)}, got {_size(size)}: split the file")


def special_kind(path: Path) -> str:
    """ "a pipe", "a socket" or "a device", which have no end to wait for; "" for a file or a folder."""
    mode = path.stat().st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def unpack(file: io.BufferedIOBase | io.BufferedReader) -> bytes:
    """The unpacked content of a gzip file of one member or several.

    Raises:
        PackedTooWell: The content is more than `LARGEST`, or than an honest file of this size holds.
        gzip.BadGzipFile, EOFError, zlib.error: The file is not gzip, or ends too early.
    """
    chunks: list[bytes] = []
    total = 0
    with gzip.GzipFile(fileobj=file) as packed:
        while chunk := packed.read(_CHUNK):
            chunks.append(chunk)
            total += len(chunk)
            read = max(1, file.tell())  # of the packed bytes; the gzip module reads ahead by a little
            if total > FREE and total > RATIO * read:
                raise PackedTooWell(f"{RATIO} bytes for each packed one, got {total / read:,.0f}")
            if total > LARGEST:
                raise PackedTooWell(f"{_size(LARGEST)} of packed content, got more")
    return b"".join(chunks)


def check_archive(data: bytes, file: Path) -> None:
    """Refuse a zip archive (Word, EPUB) that unpacks to much more than a document holds, without unpacking it.

    The sizes that the archive states are enough: `zipfile` reads no more than that.

    Raises:
        DataError: The archive holds too much; the message names the file.
        zipfile.BadZipFile: The data is not an archive.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        sizes = [member.file_size for member in archive.infolist()]
    total = sum(sizes)
    if total > LARGEST_ARCHIVE or (total > FREE and total > RATIO * len(data)):
        most = min(LARGEST_ARCHIVE, max(FREE, RATIO * len(data)))
        raise DataError(
            f"{file}: expected at most {_size(most)} of unpacked content, got {_size(total)}: {_ZIP_ADVICE}"
        )
    if len(sizes) > MEMBERS:
        raise DataError(
            f"{file}: expected at most {MEMBERS:,} files in the document, got {len(sizes):,}: {_ZIP_ADVICE}"
        )


def _size(count: int) -> str:
    return f"{count / (1 << 30):,.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):,.1f} MiB"
