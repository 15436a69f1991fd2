"""Pictures and their answers on one sheet, the wrong and the least certain first; needs Pillow."""

import io
import math
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from serving.client.errors import ClientError
from serving.client.prediction import Prediction
from whisker_ml.errors import WhiskerError

if TYPE_CHECKING:
    from PIL import Image, ImageFont

SHOWN = 100
# Probabilities are calibrated: of answers at this one, every fifth is wrong.
UNCERTAIN_BELOW = 0.8

_SIDE, _BORDER, _MARGIN, _LINE, _COLUMNS = 160, 6, 10, 18, 8
_FRAME = _SIDE + 2 * _BORDER
_WIDTH, _HEIGHT = _FRAME + _MARGIN, _FRAME + 2 * _LINE + _MARGIN
_TEXT, _PAPER = (30, 30, 30), (255, 255, 255)
_WRONG, _UNCERTAIN, _CERTAIN = (205, 30, 40), (240, 160, 0), (205, 210, 205)


class NoSheet(WhiskerError):
    """A sheet cannot be drawn or written."""


class _Tile(NamedTuple):
    path: str
    picture: bytes | str
    caption: str
    wrong: bool
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
        self._counts = {"answers": 0, "wrong": 0, "uncertain": 0, "failed": 0}

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
        self._counts["uncertain"] += not wrong and outcome.probability < UNCERTAIN_BELOW
        caption = f"{outcome.label} {outcome.probability:.2f}" + (
            f", not {folder}" if wrong else ""
        )
        self._tiles.append(_Tile(path, picture, caption, wrong, outcome.probability))
        if len(self._tiles) >= 2 * SHOWN:
            self._keep_the_worst()

    def draw(self) -> str:
        """Writes the sheet.

        Returns:
            One line: what is on it, and what is not.

        Raises:
            NoSheet: the file cannot be written.
        """
        from PIL import Image, ImageDraw, ImageFont

        self._keep_the_worst()
        if not self._tiles:
            return f"{self._file}: not drawn, as no picture was answered"
        font = ImageFont.load_default(13)
        heading = self._heading()
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
            colour = (
                _WRONG
                if tile.wrong
                else _CERTAIN
                if tile.probability >= UNCERTAIN_BELOW
                else _UNCERTAIN
            )
            draw.rectangle((x, y, x + _FRAME - 1, y + _FRAME - 1), outline=colour, width=_BORDER)
            thumbnail = _thumbnail(tile.picture)
            sheet.paste(
                thumbnail,
                (x + (_FRAME - thumbnail.width) // 2, y + (_FRAME - thumbnail.height) // 2),
            )
            for row, text in enumerate((tile.caption, Path(tile.path).name)):
                draw.text((x, y + _FRAME + 2 + row * _LINE), _cut(text, font), _TEXT, font)
        try:
            sheet.save(self._file, "PNG")
        except OSError as error:
            raise NoSheet(f"{self._file}: cannot be written: {error.strerror}") from error
        left_out = self._counts["answers"] - len(self._tiles)
        return f"{self._file}: {len(self._tiles)} pictures" + (
            f", the wrong and the least certain; {left_out:,} others are left out"
            if left_out
            else ""
        )

    def _keep_the_worst(self) -> None:
        # The surest of the wrong are the worst; of the others the least certain are.
        self._tiles.sort(
            key=lambda tile: (not tile.wrong, -tile.probability if tile.wrong else tile.probability)
        )
        del self._tiles[SHOWN:]

    def _heading(self) -> list[tuple[str, tuple[int, int, int]]]:
        counts, left_out = self._counts, self._counts["answers"] - len(self._tiles)
        lines = [
            (f"{counts['wrong']:,} wrong: the folder is named after another class", _WRONG),
            (
                f"{counts['uncertain']:,} uncertain: probability below {UNCERTAIN_BELOW:g}",
                _UNCERTAIN,
            ),
            (f"{counts['answers'] - counts['wrong'] - counts['uncertain']:,} others", _CERTAIN),
        ]
        if counts["failed"]:
            lines.append((f"{counts['failed']:,} without an answer, not shown", _PAPER))
        if left_out:
            lines.append(
                (
                    (
                        f"{len(self._tiles):,} shown, the wrong and the least certain;"
                        f" {left_out:,} not"
                    ),
                    _PAPER,
                )
            )
        return lines


def _cut(text: str, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont") -> str:
    while font.getlength(text) > _FRAME:
        text = text.removesuffix("…")[:-1] + "…"
    return text


def _thumbnail(picture: bytes | str) -> "Image.Image":
    from PIL import Image

    try:
        with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as opened:
            # Decodes a JPEG no larger than needed.
            opened.draft("RGB", (_SIDE, _SIDE))
            opened.thumbnail((_SIDE, _SIDE))
            return opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        # The file is gone, or Pillow draws a line where TensorFlow does not.
        return Image.new("RGB", (_SIDE, _SIDE), _CERTAIN)
