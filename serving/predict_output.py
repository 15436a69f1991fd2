"""What `whisker-predict` writes: lines of answers, a file that can be resumed, a sheet."""

import csv
import io
import json
import math
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from serving.client.errors import ClientError
from serving.client.protocol import Prediction
from whisker_ml.contract import CLOSE
from whisker_ml.errors import WhiskerError, disk_errors
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
    widths: dict[str, int] = {}

    def write(path: str, outcome: Prediction | ClientError) -> None:
        if isinstance(outcome, ClientError):
            return
        best = _best(outcome, top or 1)
        if not widths:
            longest = max(map(len, outcome.probabilities))
            for title, _ in zip(_titles(top or 1), best, strict=False):
                widths[title] = max(len(title), longest * title.startswith("label"))
            heading = [f"{title:<{width}}" for title, width in widths.items()]
            print(escaped("  ".join([*heading, "unsure  version  path"])), file=stream)
        cells = [
            f"{cell:<{width}}" if isinstance(cell, str) else f"{cell:>{width}.4f}"
            for cell, width in zip(best, widths.values(), strict=False)
        ]
        unsure = {True: "unsure", False: "", None: "–"}[outcome.unsure]
        _, first, *second = _best(outcome, 2)
        if top in (None, 1) and second and first - second[1] < CLOSE:
            unsure = f"or {second[0]}"
        cells += [f"{unsure:<6}", f"{outcome.model_version:>7}", path]
        print(escaped("  ".join(cells)), file=stream)

    return write


def _json(stream: TextIO, top: int | None) -> Write:
    def write(path: str, outcome: Prediction | ClientError) -> None:
        line: dict[str, object] = {"path": path}
        if isinstance(outcome, ClientError):
            line["error"] = str(outcome)
        else:
            line |= vars(outcome)
            if top:
                best = _best(outcome, top)
                line["probabilities"] = dict(zip(best[::2], best[1::2], strict=True))
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
            row |= zip(_titles(top or 1), best, strict=False)
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


def _best(prediction: Prediction, count: int) -> list[Any]:
    """Gives the most probable classes, each followed by its probability."""
    if count == 1:
        return [prediction.label, prediction.probability]
    by_probability = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    return [*chain.from_iterable(by_probability[:count])]


def _titles(count: int) -> list[str]:
    ranks = ["", *(f"_{rank}" for rank in range(2, count + 1))]
    return [f"{name}{rank}" for rank in ranks for name in ("label", "probability")]


# The file that keeps answers as they come, so that a run that was stopped can resume.

FORMAT_BY_SUFFIX = {".csv": "csv", ".json": "json", ".jsonl": "json"}


class UnusableResults(WhiskerError):
    """The file is another one's."""


class Results:
    """A file of rows, one a picture; see `open_results`.

    Attributes:
        kept: how many answers were there already.
    """

    def __init__(self, file: Path, write: Write, kept: sqlite3.Connection) -> None:
        self._file, self._write, self._kept = file, write, kept
        (self.kept,) = kept.execute("SELECT count(*) FROM kept").fetchone()

    def __contains__(self, path: str) -> bool:
        """Whether the picture was answered before."""
        found = self._kept.execute("SELECT 1 FROM kept WHERE path = ?", (os.fsencode(path),))
        return found.fetchone() is not None

    def write(self, path: str, outcome: Prediction | ClientError) -> None:
        """Adds a row, which is in the file when this returns."""
        with disk_errors(self._file):
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
        UnusableResults: the file is there and holds something else.
        DiskError: it cannot be read or written.
    """
    form = FORMAT_BY_SUFFIX[file.suffix.lower()]
    beside = file.with_name(f"{file.name}.new")
    # Paths that are kept lie in a temporary database without a name: memory stays constant however
    # many there are.
    with closing(sqlite3.connect("")) as kept:
        kept.execute("CREATE TABLE kept (path PRIMARY KEY) WITHOUT ROWID")
        with disk_errors(file):
            # A path that is no UTF-8 is written as the bytes that it is. A row leaves for the file
            # when it ends.
            stream = beside.open(
                "w", encoding="utf-8", errors="surrogateescape", newline="\n", buffering=1
            )
        with stream:
            with disk_errors(file):
                try:
                    write = FORMATS[form](stream, top)
                    for path in _copy(file, stream, csv_titles(top) if form == "csv" else None):
                        kept.execute("INSERT OR IGNORE INTO kept VALUES (?)", (os.fsencode(path),))
                    os.fsync(stream.fileno())
                    beside.replace(file)
                finally:
                    beside.unlink(missing_ok=True)
            yield Results(file, write, kept)


def _copy(file: Path, new: TextIO, titles: list[str] | None) -> Iterator[str]:
    """Copies the answers of an earlier file, of CSV where it has titles, and gives their paths."""
    if not file.exists():
        return
    with file.open(encoding="utf-8", errors="surrogateescape", newline="\n") as old:
        # What a kill left of a line has no end.
        lines = (line for line in old if line.endswith("\n"))
        rows: Iterator[Any] = map(json.loads, lines)
        if titles:
            # A path may hold a line's end, and its row be torn there.
            rows = csv.DictReader(lines, restval="torn")
            found = rows.fieldnames or titles
            if found != titles:
                raise UnusableResults(
                    f"{file}: has the columns {','.join(found)}, and this command writes"
                    f" {','.join(titles)}; ask as before (--top), or name another file"
                )
        writer = csv.DictWriter(new, titles or (), lineterminator="\n")
        number = 2 if titles else 1
        try:
            for row in rows:
                path = row["path"]
                if not row.get("error"):
                    if titles:
                        writer.writerow(row)
                    else:
                        print(json.dumps(row), file=new)
                    yield path
                number += 1
        except (ValueError, TypeError, KeyError) as error:
            raise UnusableResults(
                f"{file}: line {number} is not one that this command writes; name another file"
            ) from error


# Pictures and their answers on one sheet, the wrong and the least sure first; needs Pillow.

SHOWN = 100
# Where a version of before does not say: of calibrated answers at this one, every fifth is wrong.
UNSURE_BELOW = 0.8

_SIDE, _BORDER, _MARGIN, _LINE, _COLUMNS = 160, 6, 10, 18, 8
_FRAME = _SIDE + 2 * _BORDER
_WIDTH, _HEIGHT = _FRAME + _MARGIN, _FRAME + 2 * _LINE + _MARGIN
_TEXT, _PAPER, _NO_PICTURE = (30, 30, 30), (255, 255, 255), (205, 210, 205)
# What an answer is: the colour of its frame, and what the heading says; of the last two, pictures
# are not shown.
_WRONG, _UNSURE, _SURE, _FAILED, _LEFT_OUT = range(5)
_HEADING = (
    ((205, 30, 40), "wrong: the folder is named after another class"),
    (
        (240, 160, 0),
        f"not sure (if the model does not say: probability below {UNSURE_BELOW:g})",
    ),
    ((205, 210, 205), "others"),
    (_PAPER, "without an answer, not shown"),
    (_PAPER, "left out; the wrong and the least sure are shown"),
)
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


class NoSheet(WhiskerError):
    """A sheet cannot be drawn."""


class _Tile(NamedTuple):
    group: int  # of _HEADING
    order: tuple[bool, float]  # in its group, the worst first
    picture: bytes | str
    caption: str
    name: str


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
            NoSheet: Pillow is not installed.
        """
        if find_spec("PIL") is None:
            raise NoSheet(
                f"{file}: a sheet of pictures needs Pillow, which is not installed: run pip install"
                " pillow"
            )
        self._file = file
        self._tiles: list[_Tile] = []
        self._counts = [0] * len(_HEADING)

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
            self._counts[_FAILED] += 1
            return
        folder, name = Path(path).parent.name, Path(path).name
        unsure, probability = outcome.unsure, outcome.probability
        if unsure is None:
            unsure = probability < UNSURE_BELOW
        caption = f"{outcome.label} {probability:.2f}"
        # The surest of the wrong are the worst; of the others the least sure are.
        group, order = _UNSURE if unsure else _SURE, (unsure, probability)
        if folder in outcome.probabilities and folder != outcome.label:
            group, order = _WRONG, (unsure, -probability)
            caption += f", not {folder}"
        self._counts[group] += 1
        self._tiles.append(_Tile(group, order, picture, escaped(caption), escaped(name)))
        if len(self._tiles) >= 2 * SHOWN:
            self._keep_the_worst()

    def _keep_the_worst(self) -> None:
        self._tiles.sort(key=lambda tile: (tile.group, tile.order))
        self._counts[_LEFT_OUT] += len(self._tiles[SHOWN:])
        del self._tiles[SHOWN:]

    def draw(self) -> str:
        """Writes the sheet.

        Returns:
            One line: what is on it, and what is not.

        Raises:
            DiskError: the file cannot be written.
        """
        from PIL import Image, ImageDraw, ImageOps

        self._keep_the_worst()
        if not self._tiles:
            return f"{self._file}: not drawn, as no picture was answered"
        font = _font({*"".join(tile.caption + tile.name for tile in self._tiles)})
        heading = [
            (f"{count:,} {meaning}", colour)
            for count, (colour, meaning) in zip(self._counts, _HEADING, strict=True)
            if count or colour != _PAPER
        ]
        columns = min(_COLUMNS, len(self._tiles))
        top = _MARGIN + len(heading) * _LINE + _MARGIN
        longest = _LINE + max(math.ceil(font.getlength(line)) for line, _ in heading)
        rows = math.ceil(len(self._tiles) / columns)
        size = 2 * _MARGIN + max(columns * _WIDTH, longest), top + rows * _HEIGHT
        sheet = Image.new("RGB", size, _PAPER)
        draw = ImageDraw.Draw(sheet)
        for number, (line, colour) in enumerate(heading):
            y = _MARGIN + number * _LINE
            draw.rectangle((_MARGIN, y, _MARGIN + 11, y + 11), fill=colour)
            draw.text((_MARGIN + _LINE, y - 2), line, _TEXT, font)
        for number, tile in enumerate(self._tiles):
            x, y = _MARGIN + number % columns * _WIDTH, top + number // columns * _HEIGHT
            picture = ImageOps.pad(_thumbnail(tile.picture), (_SIDE, _SIDE), color=_PAPER)
            sheet.paste(ImageOps.expand(picture, _BORDER, _HEADING[tile.group][0]), (x, y))
            for row, text in enumerate((tile.caption, tile.name)):
                draw.text((x, y + _FRAME + 2 + row * _LINE), _cut(text, font), _TEXT, font)
        with disk_errors(self._file):
            sheet.save(self._file, "PNG")
        left_out = self._counts[_LEFT_OUT]
        return f"{self._file}: {len(self._tiles)} pictures" + (
            f", the wrong and the least sure; {left_out:,} others are left out" if left_out else ""
        )


def _font(characters: Collection[str]) -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    """Gives the first of the fonts that can draw the most of these characters."""
    from PIL import ImageFont

    fonts = [ImageFont.load_default(_FONT_SIZE)]
    names = [*_FONTS]
    if (matplotlib := find_spec("matplotlib")) and matplotlib.origin:
        names.append(f"{Path(matplotlib.origin).parent}/mpl-data/fonts/ttf/DejaVuSans.ttf")
    for name in names:
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
            opened.thumbnail((_SIDE, _SIDE))
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        # The file is gone, or Pillow draws a line where TensorFlow does not.
        return Image.new("RGB", (_SIDE, _SIDE), _NO_PICTURE)
