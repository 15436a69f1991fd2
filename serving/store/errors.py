"""What can go wrong with a model store; each text is one line."""

from whisker_ml.errors import StorageError


class NotASavedModelError(StorageError):
    """What is to be published cannot be served."""


class VersionMissingError(StorageError):
    """A version that the store does not have."""


class ManifestError(StorageError):
    """A whisker.json that cannot be read."""


class DigestError(StorageError):
    """A version is not, byte for byte, what was published."""


class LabelsError(StorageError):
    """The class names that a version records are not those of its model."""


class NumberError(StorageError):
    """A version was published under another number than it has."""
