"""What one request may ask for: rows, bytes, pixels. TensorFlow Serving has no such bounds."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from serving.server.status import StatusError, invalid_argument
from whisker_ml.formats import pixels

# What a string takes beside its content: an object of Python's and one of TensorFlow's.
STRING_BYTES = 64
# Rows that a model may have to make pictures of: as many as a batch of tensorflow_model_server has
# at most, unless a flag says otherwise.
PICTURES = 1000


@dataclass(frozen=True)
class Limits:
    """Bounds of a request; a few bytes may ask for all memory, as one value may stand for many.

    Attributes:
        rows: first dimension of an input, or the number of its examples; None: `PICTURES` where a
            row may be a picture, which are strings and what has four dimensions.
        nbytes: bytes of all inputs, once they are arrays.
        pixels: width times height of all pictures among the inputs.
    """

    rows: int | None = None
    nbytes: int = 2**29
    pixels: int = 10**9

    def check(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Looks at the inputs of a request.

        Raises:
            StatusError: INVALID_ARGUMENT, they are beyond a bound.
        """
        arrays = feeds.values()
        for a in arrays:
            if a.ndim:
                self.check_rows(a.shape[0], pictures=a.dtype == object or a.ndim > 3)
        strings = [value for a in arrays if a.dtype == object for value in a.ravel().tolist()]
        nbytes = sum(a.nbytes for a in arrays if a.dtype != object)
        nbytes += sum(map(len, strings)) + STRING_BYTES * len(strings)
        self._refuse("bytes", nbytes, self.nbytes)
        # A value that stands for many is one object, and is looked at once.
        known = {id(value): pixels(value) for value in {id(v): v for v in strings}.values()}
        self._refuse("pixels", sum(known[id(value)] for value in strings), self.pixels)

    def check_rows(self, rows: int, *, pictures: bool) -> None:
        """Looks at a number of rows, which may be pictures.

        Raises:
            StatusError: INVALID_ARGUMENT, there are too many.
        """
        if pictures or self.rows is not None:
            self._refuse("rows", rows, self.rows or PICTURES)

    @staticmethod
    def _refuse(what: str, wanted: int, most: int) -> None:
        if wanted > most:
            flag = "max_pixels" if what == "pixels" else f"max_request_{what}"
            raise too_much(what, wanted, most, flag)


def too_much(what: str, wanted: int, most: int, flag: str) -> StatusError:
    """Makes the error of a request that is beyond a bound."""
    return invalid_argument(
        f"The request asks for {wanted} {what}: at most {most} (--{flag} of this server); send"
        " several smaller requests"
    )
