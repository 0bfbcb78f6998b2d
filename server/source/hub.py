"""Models and tokenizers of the Hugging Face Hub: fetched into the Hub's own cache, at once and offline where they are there."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from headway.server.errors import ModelSourceError
from headway.server.source.choice import code_files, has_tokenizer, model_files, text_files
from headway.server.source.gguf_parts import gguf_models, parts_of
from headway.server.source.progress import Progress
from headway.server.source.space import require_space
from headway.server.source.weights import missing_shards
from headway.server.words import amount, plural

_T = TypeVar("_T")


class HubUnreachable(ModelSourceError):
    """The Hub could not be asked: no network, a fault of its own, or HF_HUB_OFFLINE."""


@dataclass(frozen=True)
class HubModel:
    """One repository of the Hub at one revision (None: its main branch).

    `download_dir` None is the Hub cache; `endpoint` None is the Hub library's own (HF_ENDPOINT). Files that match one of
    `ignore_patterns` are not fetched.
    """

    repo_id: str
    revision: str | None = None
    token: str | None = None
    download_dir: str | None = None
    endpoint: str | None = None
    ignore_patterns: tuple[str, ...] = ()
    revision_flag: str = "--revision"  # for messages
    with_code: bool = False  # which is only fetched where it is trusted

    def fetch(self, load_format: str, on_progress: Callable[[str], None] | None = None) -> Path:
        """The directory of the model's snapshot, with weights unless `load_format` is "dummy". Raises ModelSourceError.

        A whole snapshot in the cache is taken as it is, without asking the Hub whether the branch has moved.
        """
        if (cached := self.kept(load_format)) is not None:
            return cached
        sizes = self.list_files()
        where, one_gguf = f"The Hub repository {self.repo_id}", "download one of them and give its path"
        code = code_files(sizes) if self.with_code else []
        return self._download([*model_files(list(sizes), load_format, where, one_gguf), *code], sizes, on_progress)

    def fetch_tokenizer(self, on_progress: Callable[[str], None] | None = None) -> Path:
        """The directory of the snapshot with at least the tokenizer's files. Raises ModelSourceError."""
        cached = self._cached()
        if cached is not None and has_tokenizer(path.name for path in cached.iterdir() if path.is_file()):
            return cached
        sizes = self.list_files()
        return self._download(text_files(sizes), sizes, on_progress)

    def kept(self, load_format: str) -> Path | None:
        """The directory of a whole snapshot that the Hub cache holds. Raises ModelSourceError for what is no id."""
        cached = self._cached()
        if cached is None or not _is_whole(cached, load_format) or (self.with_code and _lacks_code(cached)):
            return None
        return cached

    def _cached(self) -> Path | None:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            # The pattern: the library itself must not judge what a whole snapshot is; it would want the pickles too.
            found = snapshot_download(
                self.repo_id, revision=self.revision, cache_dir=self.download_dir, local_files_only=True, allow_patterns=["config.json"]
            )
        except LocalEntryNotFoundError:
            return None
        except HFValidationError as error:
            raise ModelSourceError(
                f"{self.repo_id!r} is neither a path that exists here nor a Hub id (name or organisation/name); name a local directory, "
                f"a .gguf file, a Hub id or `demo`."
            ) from error
        return Path(str(found))

    def list_files(self, timeout_s: float = 20.0) -> dict[str, int]:
        """The files of the repository that may be fetched, and their sizes. Raises ModelSourceError."""
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.endpoint, token=self.token)
        # Not list_repo_files: without a network that one retries for 23 s before it says so.
        info = self._asking(lambda: api.model_info(self.repo_id, revision=self.revision, files_metadata=True, timeout=timeout_s))
        siblings = [sibling for sibling in info.siblings or [] if not self._is_ignored(sibling.rfilename)]
        return {sibling.rfilename: sibling.size or 0 for sibling in siblings}

    def fetch_file(self, name: str, folder: Path) -> None:
        """Puts one small file into ``folder``, not into the cache. Raises ModelSourceError."""
        from huggingface_hub import hf_hub_download

        self._asking(
            lambda: hf_hub_download(self.repo_id, name, revision=self.revision, token=self.token, endpoint=self.endpoint, local_dir=folder)
        )

    def _is_ignored(self, name: str) -> bool:
        return any(fnmatch.fnmatch(name, pattern) for pattern in self.ignore_patterns)

    def _download(self, files: list[str], sizes: Mapping[str, int], on_progress: Callable[[str], None] | None) -> Path:
        from huggingface_hub import constants, snapshot_download

        from headway.server.source.hub_progress import bar_telling

        total = sum(sizes[name] for name in files)
        cache = Path(self.download_dir or constants.HF_HUB_CACHE)
        what = f"The model {self.repo_id}"
        require_space(total - self._kept_bytes(cache), cache, what, "set --download-dir (or HF_HOME) to a directory on a larger disk")
        doing = f"downloading {self.repo_id} from the Hugging Face Hub"
        if on_progress:
            on_progress(f"{doing}: {plural(len(files), 'file')}, {amount(total)}")
        return Path(
            self._asking(
                lambda: str(
                    snapshot_download(
                        self.repo_id,
                        revision=self.revision,
                        cache_dir=self.download_dir,
                        token=self.token,
                        endpoint=self.endpoint,
                        allow_patterns=files,
                        tqdm_class=bar_telling(Progress(doing, total, on_progress)),
                    )
                )
            )
        )

    def _kept_bytes(self, cache: Path) -> int:
        """What an earlier download of this repository left; of another revision, too, so it is the most that it can be."""
        blobs = cache / f"models--{self.repo_id.replace('/', '--')}" / "blobs"
        return sum(path.stat().st_size for path in blobs.glob("*") if path.is_file())

    def _asking(self, ask: Callable[[], _T]) -> _T:
        """Asks the Hub; every way that fails becomes one sentence."""
        from huggingface_hub import errors

        where = f"{self.repo_id!r}" + (f" at revision {self.revision!r}" if self.revision else "")
        hub = (self.endpoint or _default_endpoint()).rstrip("/")
        unreachable = "check the network (HF_ENDPOINT names a mirror), or give a model that is on this machine"
        try:
            return ask()
        except errors.GatedRepoError as error:
            raise ModelSourceError(
                f"The model {where} is gated: accept its terms at {hub}/{self.repo_id} and give a token of that account "
                f"(--hf-token or HF_TOKEN)" + ("; the token given has no access." if self.token else ".")
            ) from error
        except errors.RevisionNotFoundError as error:
            raise ModelSourceError(f"{self.repo_id!r} has no revision {self.revision!r} on {hub}; check {self.revision_flag}.") from error
        except errors.RepositoryNotFoundError as error:
            raise ModelSourceError(
                f"No model {where}: it is no local path and {hub} has no such repository, or it is private "
                f"(then give a token with --hf-token or HF_TOKEN); check the spelling."
            ) from error
        except errors.OfflineModeIsEnabled as error:
            raise HubUnreachable(
                f"The model {where} is not in the Hub cache and HF_HUB_OFFLINE forbids to download it; "
                f"unset HF_HUB_OFFLINE once, or give a model that is on this machine."
            ) from error
        except errors.HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else "an error"
            raise HubUnreachable(f"{hub} answered {status} when asked for the model {where}; try again, or {unreachable}.") from error
        except (errors.HTTPError, errors.LocalEntryNotFoundError) as error:  # type: ignore[attr-defined]
            raise HubUnreachable(f"The model {where} cannot be downloaded: {hub} cannot be reached ({error}); {unreachable}.") from error
        except OSError as error:
            raise ModelSourceError(f"The model {where} cannot be downloaded: {error}; free space or set --download-dir.") from error


def _lacks_code(snapshot: Path) -> bool:
    """Whether it was fetched without the code that its config.json names."""
    config = snapshot / "config.json"
    return config.is_file() and b'"auto_map"' in config.read_bytes() and not any(snapshot.glob("*.py"))


def _is_whole(directory: Path, load_format: str) -> bool:
    """Whether a cached snapshot can be served: a download that was cut off left fewer files."""
    if load_format != "gguf" and (directory / "config.json").is_file():
        if load_format == "dummy":
            return True
        weights = [path.name for path in directory.glob("*.safetensors")]
        numbered = any(fnmatch.fnmatch(name, "*-of-*.safetensors") for name in weights)
        has_index = (directory / "model.safetensors.index.json").is_file()
        if weights and (has_index or not numbered) and not missing_shards(directory):
            return True
    models = gguf_models(path.name for path in directory.glob("*.gguf"))
    return load_format in ("auto", "gguf") and any(all((directory / part).is_file() for part in parts_of(name)) for name in models)


def _default_endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)
