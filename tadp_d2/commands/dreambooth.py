"""`tadp-d2 dreambooth`: a UNet that knows a style by a rare word (DreamBooth)."""

import argparse
from pathlib import Path

from tadp_d2.personalization.arguments import add_shared, run_personalization


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "dreambooth",
        help="fine-tune a UNet on images (DreamBooth)",
        description="Fine-tunes a diffusion model's UNet on images under one prompt. Writes "
        "unet/, which diffusers and MODEL.DIFFUSION.UNET read. It may be stopped at any moment: "
        "with --resume the same command goes on.",
    )
    add_shared(
        parser,
        output="artifacts/dreambooth",
        rate="2e-6; low-rank updates want about 1e-4",
        accumulation=1,
        save=250,
    )
    own = parser.add_argument_group("DreamBooth")
    own.add_argument("--prompt", help='of every image, such as "an image in sks style"')
    own.add_argument(
        "--prior-images", type=int, metavar="N", help="prior preservation (default: 0, none)"
    )
    own.add_argument("--prior-prompt", metavar="TEXT", help='their prompt, such as "a painting"')
    own.add_argument("--prior-weight", type=float, help="of their loss (default: 1)")
    own.add_argument(
        "--train-text-encoder",
        action="store_true",
        default=None,
        help="fine-tune it too; the result is a whole diffusion model",
    )
    own.add_argument(
        "--adam-8bit", action="store_true", default=None, help="less memory; needs bitsandbytes"
    )
    own.add_argument(
        "--lora", type=int, metavar="RANK", help="train low-rank updates only; needs peft"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from tadp_d2.personalization.personalize import dreambooth

    folder = run_personalization(
        args,
        "dreambooth",
        own=(
            *("prompt", "prior_images", "prior_prompt", "prior_weight"),
            *("train_text_encoder", "adam_8bit", "lora"),
        ),
        output=Path("artifacts", "dreambooth"),
        personalize=dreambooth,
    )
    use = f"MODEL.DIFFUSION.UNET {folder}"
    if args.train_text_encoder:
        use += f" MODEL.DIFFUSION.WEIGHTS {folder.parent}"
    print(f"{folder}\nTo use it: {use}")
