"""Google's identity tokens for a server behind them, such as one on Cloud Run; needs the extra
`identity`.
"""

from threading import Lock
from typing import Any

from serving.client.errors import NotAllowed
from whisker_ml.errors import MissingExtra


class IdentityToken:
    """A token that says who this program is, renewed before it ends; for the client's argument
    `token`.

    The account is the one that GOOGLE_APPLICATION_CREDENTIALS names, or that of the machine in the
    cloud.
    """

    def __init__(self, audience: str) -> None:
        """Asks nothing yet.

        Args:
            audience: for whom the token is, as the server expects it: on Cloud Run the URL of the
                service.

        Raises:
            MissingExtra: google-auth is not installed.
        """
        try:
            from google.auth.exceptions import GoogleAuthError
            from google.auth.transport.requests import Request
            from google.oauth2.id_token import fetch_id_token_credentials
        except ImportError as error:
            raise MissingExtra("google-auth", "identity") from error
        self._error, self._request, self._fetch = (
            GoogleAuthError,
            Request,
            fetch_id_token_credentials,
        )
        self._audience = audience
        self._credentials: Any = None
        self._lock = Lock()

    def __call__(self) -> str:
        """Gives the token, a new one where the last is about to end.

        Raises:
            NotAllowed: nobody vouches for this program.
        """
        with self._lock:
            try:
                if self._credentials is None:
                    self._credentials = self._fetch(self._audience, self._request())
                if not self._credentials.valid:
                    self._credentials.refresh(self._request())
            except self._error as error:
                raise NotAllowed(
                    f"no identity token for {self._audience}: {' '.join(str(error).split())}; run"
                    " in Google Cloud, or let GOOGLE_APPLICATION_CREDENTIALS name the key file of"
                    " a service account"
                ) from error
            return str(self._credentials.token)
