"""Small synthetic data sets for all tests, in the place where Detectron2 looks for data sets."""

import contextlib
import gc
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

# Detectron2 reads the place of the data sets when it is imported, and the hub client its mode.
ROOT = Path(tempfile.mkdtemp(prefix="tadp_d2_tests_"))
os.environ["DETECTRON2_DATASETS"] = str(ROOT / "world")
os.environ["TADP_D2_CACHE"] = str(ROOT / "cache")
os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    # A core for each worker: threads that wait for each other are slower than one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from PIL import Image  # noqa: E402

from tadp_d2.cli import main  # noqa: E402
from tadp_d2.progress import hide_library_bars  # noqa: E402
from tadp_d2.start_up import importing  # noqa: E402
from tadp_d2.synthetic.refer_data_sets import ReferSizes  # noqa: E402
from tadp_d2.synthetic.room_data_sets import RoomSizes  # noqa: E402
from tadp_d2.synthetic.street_data_sets import StreetSizes  # noqa: E402
from tadp_d2.synthetic.voc_data_sets import VocSizes  # noqa: E402

from .browser import CHROMIUM, Browser  # noqa: E402
from .forked import ForkedCommands  # noqa: E402

# The files that take a minute and more, the longest first.
LONGEST = (
    *("test_train_net.py", "test_kill.py", "test_two_processes.py"),
    *("test_tutorial.py", "test_malformed.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no worker waits for one at the end."""
    place = {name: index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """No garbage is looked for among what stays: imported modules and collected tests."""
    with importing():
        result = yield
    gc.freeze()
    return result


def pytest_collection_finish() -> None:
    hide_library_bars()


def pytest_unconfigure() -> None:
    shutil.rmtree(ROOT, ignore_errors=True)


SIZES = VocSizes(
    voc_2007_trainval=8,
    voc_2007_test=6,
    voc_2012_trainval=4,
    watercolor_train=2,
    watercolor_test=6,
    comic_train=2,
    comic_test=6,
)
STREET_SIZES = StreetSizes(
    cityscapes_train=4,
    cityscapes_val=3,
    dark_zurich_train=2,
    dark_zurich_val=3,
    dark_zurich_test=2,
    nighttime_driving_test=2,
)
ROOM_SIZES = RoomSizes(rooms_train=4, rooms_test=3, rooms_labeled_train=2)
REFER_SIZES = ReferSizes(
    refcoco_train=4,
    refcoco_val=3,
    refcoco_testA=2,
    refcoco_testB=2,
    refcoco_watercolor_test=2,
    refcoco_comic_test=2,
)
QUICK = Path(__file__).parents[1] / "configs" / "quick_schedules"


@pytest.fixture(scope="session", autouse=True)
def _remove_folders(request, tmp_path_factory):
    """Of a run that passed: they are gigabytes. Set up first, it comes last."""
    yield
    if not request.session.testsfailed:
        shutil.rmtree(tmp_path_factory.getbasetemp(), ignore_errors=True)


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager]:
    """`with full_disk(size)`: the kernel refuses what makes a file larger, as on a full disk."""

    @contextlib.contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture(scope="session")
def world() -> Path:
    """A folder with the data sets, captions and the tiny diffusion model."""
    from tadp_d2.synthetic.data_folder import write_data_folder

    folder = Path(os.environ["DETECTRON2_DATASETS"])
    if not folder.exists():
        write_data_folder(folder, 0, SIZES, STREET_SIZES, ROOM_SIZES, REFER_SIZES)
    return folder


@pytest.fixture(scope="session")
def model_folder(world: Path) -> Path:
    """A Stable Diffusion folder in diffusers' format."""
    from tadp_d2.synthetic.data_folder import MODEL_FOLDER

    return world / MODEL_FOLDER


@pytest.fixture(scope="session")
def forked(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedCommands]:
    """Commands in processes of their own, without the seconds that their imports take."""
    with ForkedCommands(tmp_path_factory.mktemp("forked"), world) as commands:
        yield commands


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One page in a real browser, which the tests of a process share."""
    if not CHROMIUM:
        pytest.skip("chromium is not installed")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def _clip_text_model(cls, tokenizer, width: int, layers: int, **own):
    """One of random weights, in which two texts differ clearly."""
    from transformers import CLIPTextConfig

    return cls(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=layers,
            num_attention_heads=2,
            initializer_range=0.2,
            eos_token_id=tokenizer.eos_token_id,
            **own,
        )
    )


@pytest.fixture(scope="session")
def sdxl_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion XL of random weights with the tiny model's VAE and vocabulary."""
    import torch
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    tokenizers = [
        CLIPTokenizer.from_pretrained(model_folder / "tokenizer", **own)
        for own in ({}, {"pad_token": "!"})
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = _clip_text_model(CLIPTextModel, tokenizers[0], 16, 2)
        second = _clip_text_model(
            CLIPTextModelWithProjection, tokenizers[0], 24, 3, projection_dim=20
        )
        unet = UNet2DConditionModel(
            block_out_channels=(8, 16, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=2,
            transformer_layers_per_block=(1, 1, 2),
            attention_head_dim=(1, 2, 2),
            cross_attention_dim=16 + 24,
            use_linear_projection=True,
            norm_num_groups=4,
            addition_embed_type="text_time",
            addition_time_embed_dim=6,
            projection_class_embeddings_input_dim=20 + 6 * 6,
        )
    vae = AutoencoderKL.from_pretrained(model_folder / "vae")
    scheduler = EulerDiscreteScheduler()
    folder = tmp_path_factory.mktemp("sdxl")
    StableDiffusionXLPipeline(
        vae, first, second, *tokenizers, unet, scheduler, add_watermarker=False
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sd3_folder(sdxl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion 3 of random weights, with T5, and the vocabulary of the tiny model."""
    import torch
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import (
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        T5Config,
        T5EncoderModel,
        T5Tokenizer,
    )

    tokenizers = [
        CLIPTokenizer.from_pretrained(sdxl_folder / part) for part in ("tokenizer", "tokenizer_2")
    ]
    letters = [(letter, -2.0) for letter in "\u2581abcdefghijklmnopqrstuvwxyz"]
    t5_tokenizer = T5Tokenizer(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *letters], extra_ids=0
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        texts = [
            _clip_text_model(
                CLIPTextModelWithProjection, tokenizers[0], width, 2, projection_dim=width
            )
            for width in (12, 16)
        ]
        t5 = T5EncoderModel(
            T5Config(
                vocab_size=len(t5_tokenizer),
                d_model=32,
                d_kv=8,
                d_ff=32,
                num_layers=1,
                num_heads=2,
                feed_forward_proj="gated-gelu",
            )
        )
        transformer = SD3Transformer2DModel(
            sample_size=16,
            in_channels=8,
            num_layers=4,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=12 + 16,
            out_channels=8,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        )
        vae = AutoencoderKL(
            block_out_channels=(4, 4, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=8,
            norm_num_groups=4,
            scaling_factor=1.5,
            shift_factor=0.06,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
    folder = tmp_path_factory.mktemp("sd3")
    StableDiffusion3Pipeline(
        transformer,
        FlowMatchEulerDiscreteScheduler(),
        vae,
        texts[0],
        tokenizers[0],
        texts[1],
        tokenizers[1],
        t5,
        t5_tokenizer,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def image_encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP image encoder of random weights: 16 patches of width 16, an embedding of 24."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=24,
        initializer_range=0.2,
    )
    folder = tmp_path_factory.mktemp("clip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of three pictures, 64 x 64, 96 x 64 and 40 x 50 pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate(((64, 64), (96, 64), (40, 50))):
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        small.resize((width, height)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def command(model_folder, pictures):
    """command("invert", output, flag, ...) is the command as a list of texts."""
    own = {
        "invert": ("--token", "<new>", "--init", "watercolor", "--accumulation", "1"),
        "dreambooth": ("--prompt", "an image in sks style", "--rate", "1e-4"),
    }
    shared = ("--weights", model_folder, "--device", "cpu", "--size", 64, "--sample-every", 0)

    def make(method, output, *flags, images=pictures):
        words = (method, images, "--output", output, *shared, *own[method], *flags)
        return [str(word) for word in words]

    return make


@pytest.fixture(scope="session")
def run(command):
    """Runs such a command in this process."""

    def execute(*arguments, **keywords):
        main(command(*arguments, **keywords))

    return execute


@pytest.fixture
def make_config(model_folder: Path, tmp_path: Path):
    """make_config("KEY", value, ...) is the detection quick schedule on the world, 128 x 128."""
    settings = {
        "MODEL.DIFFUSION.WEIGHTS": str(model_folder),
        "INPUT.FIXED_SIZE_TRAIN": (128, 128),
        "INPUT.FIXED_SIZE_TEST": (128, 128),
        "OUTPUT_DIR": str(tmp_path / "run"),
        "TEST.GALLERY_IMAGES": 1,
    }
    return _maker(QUICK / "voc2watercolor_simple.yaml", settings)


@pytest.fixture
def make_segmentation_config(model_folder: Path, tmp_path: Path):
    """The same for the segmentation quick schedule, with windows of 64 pixels in 128 x 64."""
    settings = {
        "MODEL.DIFFUSION.WEIGHTS": str(model_folder),
        "INPUT.FIXED_SIZE_TRAIN": (128, 64),
        "INPUT.CROP.SIZE": [64, 64],
        "INPUT.FIXED_SIZE_TEST": (128, 64),
        "TEST.WINDOW_SIZE": 64,
        "TEST.WINDOW_STRIDE": 43,
        "OUTPUT_DIR": str(tmp_path / "run"),
        "TEST.GALLERY_IMAGES": 1,
    }
    return _maker(QUICK / "cityscapes2darkzurich_simple.yaml", settings)


@pytest.fixture
def make_depth_config(model_folder: Path, tmp_path: Path):
    """The same for the depth quick schedule, with crops and windows of 64 pixels in 96 x 64."""
    settings = {
        "MODEL.DIFFUSION.WEIGHTS": str(model_folder),
        "MODEL.DEPTH_HEAD.CHANNELS": 8,
        "INPUT.FIXED_SIZE_TRAIN": (96, 64),
        "INPUT.CROP.ENABLED": True,
        "INPUT.CROP.SIZE": [64, 64],
        "INPUT.FIXED_SIZE_TEST": (96, 64),
        "TEST.WINDOW_SIZE": 64,
        "TEST.WINDOW_STRIDE": 32,
        "OUTPUT_DIR": str(tmp_path / "run"),
        "TEST.GALLERY_IMAGES": 1,
    }
    return _maker(QUICK / "nyu_depth.yaml", settings)


@pytest.fixture
def make_referring_config(model_folder: Path, tmp_path: Path):
    """The same for the referring quick schedule, 128 x 128."""
    settings = {
        "MODEL.DIFFUSION.WEIGHTS": str(model_folder),
        "INPUT.FIXED_SIZE_TRAIN": (128, 128),
        "INPUT.FIXED_SIZE_TEST": (128, 128),
        "OUTPUT_DIR": str(tmp_path / "run"),
        "TEST.GALLERY_IMAGES": 1,
    }
    return _maker(QUICK / "refcoco.yaml", settings)


def _maker(config: Path, settings: dict):
    from tadp_d2.config.load import load_config

    pairs = [item for pair in settings.items() for item in pair]
    return lambda *overrides: load_config(str(config), overrides=[*pairs, *overrides])
