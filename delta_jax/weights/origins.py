"""Files of weights on the network: how each kind is got, and which file it turned out to be."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from delta_jax import downloads
from delta_jax.weights.errors import WeightsError


@dataclass(frozen=True)
class Original:
    """A fetched file.

    Attributes:
      path: where it lies.
      sha256: of its content.
      revision: the commit it comes from, "" where there are none.
      ours: whether it may be removed once it is converted.
    """

    path: Path
    sha256: str
    revision: str
    ours: bool


@dataclass(frozen=True)
class UrlFile:
    """A file with an address of HTTP or HTTPS.

    Attributes:
      url: the address; a user and password in it are used, and never shown or written down.
      sha256: its first digits, 8 at least; "" if nobody knows: then the content is not verified.
    """

    url: str = field(repr=False)
    sha256: str
    revision: str = ""

    @property
    def address(self) -> str:
        """For messages and records."""
        return downloads.shown(self.url)

    @property
    def pin(self) -> str:
        """What decides whether the content is right, in a few words."""
        return f"sha256 {self.sha256[:8]}" if self.sha256 else "first fetch"

    @property
    def file_name(self) -> str:
        """Last part of the path."""
        return Path(unquote(urlsplit(self.url).path)).name or "weights"

    def get(self, place: Path, sha256: str, revision: str, progress: downloads.Progress | None) -> Original:
        """Fetches it to `place`; `sha256` is the one to check, `revision` is not used.

        Raises:
          WeightsError: it cannot be had.
        """
        try:
            path = downloads.fetch(self.url, place, sha256=sha256, progress=progress)
            return Original(path, downloads.digest(path), "", ours=True)
        except downloads.DownloadError as error:
            raise WeightsError(str(error)) from error


@dataclass(frozen=True)
class HubFile:
    """A file in a repository of Hugging Face.

    Attributes:
      repo: "owner/name".
      file: its path there.
      revision: a commit of 40 digits, or a branch.
      sha256: of the file, "" if only the commit, or nothing, is known.
    """

    repo: str
    file: str
    revision: str
    sha256: str

    @property
    def address(self) -> str:
        """For messages and records."""
        return f"https://huggingface.co/{self.repo}/resolve/{self.revision}/{self.file}"

    @property
    def pin(self) -> str:
        """What decides whether the content is right, in a few words."""
        if self.sha256:
            return f"sha256 {self.sha256[:8]}"
        return f"commit {self.revision[:8]}" if is_commit(self.revision) else "first fetch"

    def get(self, place: Path, sha256: str, revision: str, progress: downloads.Progress | None) -> Original:
        """Fetches it into huggingface_hub's own cache, which other programs share; `place` is not used.

        huggingface_hub resumes, retries and shows its own progress; offline, its cache is asked and nothing else.

        Raises:
          WeightsError: it cannot be had, or is another file.
        """
        import huggingface_hub  # not needed by those who have their weights, and slow to import
        from huggingface_hub import errors

        try:
            path = Path(
                huggingface_hub.hf_hub_download(
                    self.repo, self.file, revision=revision, local_files_only=downloads.is_offline()
                )
            )
        except Exception as error:  # whatever its HTTP library raises comes through, beside its own errors
            raise WeightsError(f"{self._what_failed(error, errors)}. {self._by_hand(revision)}") from error
        found = downloads.digest(path)
        if sha256 and not found.startswith(sha256):
            raise WeightsError(
                f"{path} has sha256 {found}, expected {sha256}; it was cut off or changed: remove it and "
                f"run the same again. If the repository itself has changed, {self._by_hand(revision)}"
            )
        # .../snapshots/COMMIT/FILE
        commits = [part for part in path.parts if is_commit(part)]
        return Original(path, found, commits[-1] if commits else revision, ours=False)

    def _what_failed(self, error: Exception, errors: Any) -> str:
        if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
            why = "connections are forbidden" if downloads.is_offline() else "huggingface.co cannot be reached"
            return f"{self.file} is not in the cache of huggingface_hub, and {why}"
        if isinstance(error, errors.GatedRepoError):  # a RepositoryNotFoundError, too
            return f"{self.repo} wants a login: accept its terms in a browser and run: hf auth login"
        if isinstance(error, errors.RepositoryNotFoundError):
            return f"huggingface.co has no repository {self.repo}, or it is private: run: hf auth login"
        if isinstance(error, errors.RevisionNotFoundError):
            return f"{self.repo} has no revision {self.revision} any more"
        if isinstance(error, errors.EntryNotFoundError):
            return f"{self.repo} has no file {self.file} any more"
        text = (str(error) or "no reason given").splitlines()[0]
        return f"{self.file} cannot be fetched ({type(error).__name__}: {text})"

    def _by_hand(self, revision: str) -> str:
        return (
            f"To go on by hand, open https://huggingface.co/{self.repo}/resolve/{revision}/{self.file} in a browser "
            "and give the path of the saved file in place of the name"
        )


def is_commit(revision: str) -> bool:
    """Whether it is a whole commit hash, which means the same content for ever."""
    return len(revision) == 40 and all(digit in "0123456789abcdef" for digit in revision)
