"""What `whisker-predict` writes: lines of answers, a file that can be resumed, a sheet."""

import csv
import io
import json
import math
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from serving.client.errors import ClientError
from serving.client.protocol import Prediction
from whisker_ml.contract import CLOSE
from whisker_ml.errors import WhiskerError
from whisker_ml.terminal import escaped

if TYPE_CHECKING:
    from PIL import Image, ImageFont

# Predictions as text: an aligned table for people, JSON lines and CSV for programs; nothing is
# held back in memory.
#
# A format is a function of a stream and of how many classes to show. It gives a function that is
# called with every picture's path and outcome and writes at most one line (and, before the first, a
# heading).

Write = Callable[[str, Prediction | ClientError], None]


def _table(stream: TextIO, top: int | None) -> Write:
    """Aligns its columns by the class names of the first prediction; failed pictures get no
    line.
    """
    titles: list[str] = []
    widths: list[int] = []

    def write(path: str, outcome: Prediction | ClientError) -> None:
        if isinstance(outcome, ClientError):
            return
        best = _best(outcome, top or 1)
        if not titles:
            titles.extend(_titles(len(best)))
            longest = max(map(len, outcome.probabilities))
            widths.extend(max(len(title), longest * title.startswith("label")) for title in titles)
            heading = "  ".join(
                f"{title:<{width}}" for title, width in zip(titles, widths, strict=True)
            )
            print(escaped(f"{heading}  unsure  version  path"), file=stream)
        cells = (
            f"{cell:<{width}}" if isinstance(cell, str) else f"{cell:>{width}.4f}"
            for cell, width in zip(chain.from_iterable(best), widths, strict=False)
        )
        unsure = {True: "unsure", False: "", None: "–"}[outcome.unsure]
        first, *others = _best(outcome, 2)
        if top in (None, 1) and others and first[1] - others[0][1] < CLOSE:
            unsure = f"or {others[0][0]}"
        line = f"{'  '.join(cells)}  {unsure:<6}  {outcome.model_version:>7}  {path}"
        print(escaped(line), file=stream)

    return write


def _json(stream: TextIO, top: int | None) -> Write:
    def write(path: str, outcome: Prediction | ClientError) -> None:
        line: dict[str, object] = {"path": path}
        if isinstance(outcome, ClientError):
            line["error"] = str(outcome)
        else:
            line |= {
                "label": outcome.label,
                "probability": outcome.probability,
                "probabilities": dict(_best(outcome, top)) if top else outcome.probabilities,
                "unsure": outcome.unsure,
                "model_version": outcome.model_version,
            }
        print(json.dumps(line), file=stream)

    return write


def _csv(stream: TextIO, top: int | None) -> Write:
    # A model with fewer classes than `top` leaves cells empty.
    writer = csv.DictWriter(stream, csv_titles(top), restval="", lineterminator="\n")
    writer.writeheader()

    def write(path: str, outcome: Prediction | ClientError) -> None:
        row: dict[str, object] = {"path": path}
        if isinstance(outcome, ClientError):
            row["error"] = outcome
        else:
            best = _best(outcome, top or 1)
            row |= zip(_titles(len(best)), chain.from_iterable(best), strict=True)
            row |= {"unsure": outcome.unsure, "model_version": outcome.model_version}
        writer.writerow(row)

    return write


FORMATS: Mapping[str, Callable[[TextIO, int | None], Write]] = {
    "table": _table,
    "json": _json,
    "csv": _csv,
}


def csv_titles(top: int | None) -> list[str]:
    """Gives the columns of CSV with so many classes; the first is the path, and the last the
    error.
    """
    return ["path", *_titles(top or 1), "unsure", "model_version", "error"]


def _best(prediction: Prediction, count: int) -> list[tuple[str, float]]:
    if count == 1:
        return [(prediction.label, prediction.probability)]
    return sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:count]


def _titles(count: int) -> list[str]:
    titles = ["label", "probability"]
    for rank in range(2, count + 1):
        titles += [f"label_{rank}", f"probability_{rank}"]
    return titles


# The file that keeps answers as they come, so that a run that was stopped can resume.

FORMAT_BY_SUFFIX = {".csv": "csv", ".json": "json", ".jsonl": "json"}


class UnusableResults(WhiskerError):
    """The file is another one's, or cannot be read or written."""


class Results:
    """A file of rows, one a picture; see `open_results`.

    Attributes:
        kept: how many answers were there already.
    """

    def __init__(self, file: Path, write: Write, kept: sqlite3.Connection) -> None:
        self._file = file
        self._write = write
        self._kept = kept
        (self.kept,) = kept.execute("SELECT count(*) FROM kept").fetchone()

    def __contains__(self, path: str) -> bool:
        """Whether the picture was answered before."""
        return bool(
            self._kept.execute("SELECT 1 FROM kept WHERE path = ?", (os.fsencode(path),)).fetchone()
        )

    def write(self, path: str, outcome: Prediction | ClientError) -> None:
        """Adds a row, which is in the file when this returns."""
        with _errors(self._file):
            self._write(path, outcome)


@contextmanager
def open_results(file: Path, top: int | None) -> Iterator[Results]:
    """Opens a new file, or one of an earlier run, whose answers stay.

    Failures of the earlier run are taken out, as their pictures are asked again, and so is a last
    row that was torn.

    Args:
        file: its suffix, in `FORMAT_BY_SUFFIX`, decides what it holds.
        top: how many classes a row holds, as in `FORMATS`.

    Raises:
        UnusableResults: the file is there and holds something else, or it cannot be read or
            written.
    """
    form = FORMAT_BY_SUFFIX[file.suffix.lower()]
    if not file.parent.is_dir():
        raise UnusableResults(f"{file}: there is no folder {file.parent}")
    beside = file.with_name(f"{file.name}.new")
    # Paths that are kept lie in a temporary database without a name: memory stays constant however
    # many there are.
    with closing(sqlite3.connect("")) as kept:
        kept.execute("CREATE TABLE kept (path PRIMARY KEY) WITHOUT ROWID")
        with _errors(file):
            # A path that is no UTF-8 is written as the bytes that it is. A row leaves for the file
            # when it ends.
            stream = beside.open(
                "w", encoding="utf-8", errors="surrogateescape", newline="\n", buffering=1
            )
        with stream:
            try:
                with _errors(file):
                    write = FORMATS[form](stream, top)
                    for path in _copy(file, stream, csv_titles(top) if form == "csv" else None):
                        kept.execute("INSERT OR IGNORE INTO kept VALUES (?)", (os.fsencode(path),))
                    os.fsync(stream.fileno())
                    beside.replace(file)
            except BaseException:
                beside.unlink(missing_ok=True)
                raise
            yield Results(file, write, kept)


def _copy(file: Path, new: TextIO, titles: list[str] | None) -> Iterator[str]:
    """Copies the answers of an earlier file and gives their paths."""
    if not file.exists():
        return
    with file.open(encoding="utf-8", errors="surrogateescape", newline="\n") as old:
        # What a kill left of a line has no end.
        lines = (line for line in old if line.endswith("\n"))
        yield from (
            _copy_json(file, lines, new) if titles is None else _copy_csv(file, lines, new, titles)
        )


def _copy_csv(file: Path, lines: Iterator[str], new: TextIO, titles: list[str]) -> Iterator[str]:
    rows = csv.reader(lines)
    found = next(rows, titles)
    if found != titles:
        raise UnusableResults(
            f"{file}: has the columns {','.join(found)}, and this command writes"
            f" {','.join(titles)}; ask as before (--top), or name another file"
        )
    writer = csv.writer(new, lineterminator="\n")
    for row in rows:
        # A path may hold a line's end, and its row be torn there.
        if len(row) == len(titles) and not row[-1]:
            writer.writerow(row)
            yield row[0]


def _copy_json(file: Path, lines: Iterator[str], new: TextIO) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            path = row["path"]
        except (ValueError, TypeError, KeyError) as error:
            raise UnusableResults(
                f"{file}: line {number} is not one that this command writes; name another file"
            ) from error
        if "error" not in row:
            new.write(line)
            yield path


@contextmanager
def _errors(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnusableResults(f"{file}: cannot be read and written: {error.strerror}") from error


# Pictures and their answers on one sheet, the wrong and the least sure first; needs Pillow.

SHOWN = 100
# Where a version of before does not say: of calibrated answers at this one, every fifth is wrong.
UNSURE_BELOW = 0.8

_SIDE, _BORDER, _MARGIN, _LINE, _COLUMNS = 160, 6, 10, 18, 8
_FRAME = _SIDE + 2 * _BORDER
_WIDTH, _HEIGHT = _FRAME + _MARGIN, _FRAME + 2 * _LINE + _MARGIN
_TEXT, _PAPER = (30, 30, 30), (255, 255, 255)
# Pillow's own font has little more than the letters of English; these, where the system has them,
# have others: Latin with its accents, Cyrillic and Greek, or Chinese, Japanese and Korean.
_FONTS = (
    "LiberationSans-Regular.ttf",
    "arial.ttf",
    "NotoSans-Regular.ttf",
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "msyh.ttc",
)
_FONT_SIZE = 13
_IN_NO_FONT = "\U0010ffff"
_WRONG, _UNSURE, _SURE = (205, 30, 40), (240, 160, 0), (205, 210, 205)


class NoSheet(WhiskerError):
    """A sheet cannot be drawn or written."""


class _Tile(NamedTuple):
    path: str
    picture: bytes | str
    caption: str
    wrong: bool
    unsure: bool
    probability: float


class Sheet:
    """Collects answers in constant memory, and draws them at the end.

    An answer is wrong where the picture lies in a folder named after another of the model's
    classes.
    """

    def __init__(self, file: Path) -> None:
        """Makes sure that a sheet can be drawn.

        Args:
            file: the picture to write, a PNG.

        Raises:
            NoSheet: Pillow is not installed, or the folder is not there.
        """
        if not file.parent.is_dir():
            raise NoSheet(f"{file}: there is no folder {file.parent}")
        if find_spec("PIL") is None:
            raise NoSheet(
                f"{file}: a sheet of pictures needs Pillow, which is not installed: run pip install"
                " pillow"
            )
        self._file = file
        self._tiles: list[_Tile] = []
        self._counts = {"answers": 0, "wrong": 0, "unsure": 0, "failed": 0}

    def add(
        self, path: str, picture: bytes | str | ClientError, outcome: Prediction | ClientError
    ) -> None:
        """Takes note of a picture.

        Args:
            path: what it is called.
            picture: its encoded bytes, or its file, which is read when the sheet is drawn, or why
                there is none.
            outcome: the answer; pictures without one are counted and not drawn.
        """
        if isinstance(outcome, ClientError) or isinstance(picture, ClientError):
            self._counts["failed"] += 1
            return
        folder = Path(path).parent.name
        wrong = folder in outcome.probabilities and folder != outcome.label
        self._counts["answers"] += 1
        self._counts["wrong"] += wrong
        unsure = outcome.unsure
        if unsure is None:
            unsure = outcome.probability < UNSURE_BELOW
        self._counts["unsure"] += unsure and not wrong
        caption = f"{outcome.label} {outcome.probability:.2f}" + (
            f", not {folder}" if wrong else ""
        )
        self._tiles.append(_Tile(path, picture, caption, wrong, unsure, outcome.probability))
        if len(self._tiles) >= 2 * SHOWN:
            self._keep_the_worst()

    def draw(self) -> str:
        """Writes the sheet.

        Returns:
            One line: what is on it, and what is not.

        Raises:
            NoSheet: the file cannot be written.
        """
        from PIL import Image, ImageDraw

        self._keep_the_worst()
        if not self._tiles:
            return f"{self._file}: not drawn, as no picture was answered"
        captions = [(escaped(tile.caption), escaped(Path(tile.path).name)) for tile in self._tiles]
        font = _font(chain.from_iterable(captions))
        left_out = self._counts["answers"] - len(self._tiles)
        heading = self._heading(left_out)
        columns = min(_COLUMNS, len(self._tiles))
        top = _MARGIN + len(heading) * _LINE + _MARGIN
        longest = _LINE + max(math.ceil(font.getlength(line)) for line, _ in heading)
        rows = math.ceil(len(self._tiles) / columns)
        sheet = Image.new(
            "RGB", (2 * _MARGIN + max(columns * _WIDTH, longest), top + rows * _HEIGHT), _PAPER
        )
        draw = ImageDraw.Draw(sheet)
        for number, (line, colour) in enumerate(heading):
            y = _MARGIN + number * _LINE
            draw.rectangle((_MARGIN, y, _MARGIN + 11, y + 11), fill=colour)
            draw.text((_MARGIN + _LINE, y - 2), line, _TEXT, font)
        for number, tile in enumerate(self._tiles):
            x, y = _MARGIN + number % columns * _WIDTH, top + number // columns * _HEIGHT
            colour = _WRONG if tile.wrong else _UNSURE if tile.unsure else _SURE
            draw.rectangle((x, y, x + _FRAME - 1, y + _FRAME - 1), outline=colour, width=_BORDER)
            thumbnail = _thumbnail(tile.picture)
            sheet.paste(
                thumbnail,
                (x + (_FRAME - thumbnail.width) // 2, y + (_FRAME - thumbnail.height) // 2),
            )
            for row, text in enumerate(captions[number]):
                draw.text((x, y + _FRAME + 2 + row * _LINE), _cut(text, font), _TEXT, font)
        try:
            sheet.save(self._file, "PNG")
        except OSError as error:
            raise NoSheet(f"{self._file}: cannot be written: {error.strerror}") from error
        return f"{self._file}: {len(self._tiles)} pictures" + (
            f", the wrong and the least sure; {left_out:,} others are left out" if left_out else ""
        )

    def _keep_the_worst(self) -> None:
        # The surest of the wrong are the worst; of the others the least sure are.
        self._tiles.sort(
            key=lambda tile: (
                not tile.wrong,
                tile.unsure if tile.wrong else not tile.unsure,
                -tile.probability if tile.wrong else tile.probability,
            )
        )
        del self._tiles[SHOWN:]

    def _heading(self, left_out: int) -> list[tuple[str, tuple[int, int, int]]]:
        counts = self._counts
        others = counts["answers"] - counts["wrong"] - counts["unsure"]
        lines = [
            (f"{counts['wrong']:,} wrong: the folder is named after another class", _WRONG),
            (
                f"{counts['unsure']:,} not sure (if the model does not say: probability below"
                f" {UNSURE_BELOW:g})",
                _UNSURE,
            ),
            (f"{others:,} others", _SURE),
        ]
        if counts["failed"]:
            lines.append((f"{counts['failed']:,} without an answer, not shown", _PAPER))
        if left_out:
            shown = f"{len(self._tiles):,} shown, the wrong and the least sure"
            lines.append((f"{shown}; {left_out:,} not", _PAPER))
        return lines


def _font(texts: Iterable[str]) -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    """Gives the first font that can draw the most of the texts' characters."""
    from PIL import ImageFont

    characters = set("".join(texts))
    fonts = [ImageFont.load_default(_FONT_SIZE)]
    names = [*_FONTS]
    if (matplotlib := find_spec("matplotlib")) and matplotlib.origin:
        names.append(f"{Path(matplotlib.origin).parent}/mpl-data/fonts/ttf/DejaVuSans.ttf")
    for name in names:
        if all(_draws(fonts[-1], character) for character in characters):
            return fonts[-1]
        with suppress(OSError):
            fonts.append(ImageFont.truetype(name, _FONT_SIZE))
    return max(fonts, key=lambda font: sum(_draws(font, each) for each in characters))


def _draws(font: "ImageFont.FreeTypeFont | ImageFont.ImageFont", character: str) -> bool:
    """Whether the font has the character, and not only the box that stands for a missing one."""
    try:
        return bytes(font.getmask(character)) != bytes(font.getmask(_IN_NO_FONT))
    except UnicodeError:
        return False


def _cut(text: str, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont") -> str:
    while font.getlength(text) > _FRAME:
        text = text.removesuffix("…")[:-1] + "…"
    return text


def _thumbnail(picture: bytes | str) -> "Image.Image":
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as opened:
            # Decodes a JPEG no larger than needed.
            opened.draft("RGB", (_SIDE, _SIDE))
            opened.thumbnail((_SIDE, _SIDE))
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        # The file is gone, or Pillow draws a line where TensorFlow does not.
        return Image.new("RGB", (_SIDE, _SIDE), _SURE)
