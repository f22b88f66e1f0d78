"""Build model.engine from model.onnx with TensorRT.

UNTESTED: written from its documentation, run on no GPU.

    python build_engine.py --height 512 --width 1024 [--fp16]
"""

import argparse
import sys
from pathlib import Path

import tensorrt  # type: ignore[import-not-found]


def main() -> None:
    """Parse the ONNX file, state the sizes, write the engine."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--height", type=int, required=True, help="of the usual image, in pixels")
    options.add_argument("--width", type=int, required=True)
    options.add_argument(
        "--fp16", action="store_true", help="let layers run in half precision (TensorRT before 11)"
    )
    chosen = options.parse_args()
    here = Path(__file__).parent
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    model = builder.create_network(0)  # from TensorRT 10 on the batch is always explicit
    parser = tensorrt.OnnxParser(model, logger)
    if not parser.parse((here / "model.onnx").read_bytes()):
        sys.exit("\n".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
    config = builder.create_builder_config()
    if chosen.fp16:
        config.set_flag(tensorrt.BuilderFlag.FP16)
    channels = model.get_input(0).shape[1]
    profile = builder.create_optimization_profile()
    profile.set_shape(
        model.get_input(0).name,
        (1, channels, 64, 64),
        (1, channels, chosen.height, chosen.width),
        (8, channels, 2 * chosen.height, 2 * chosen.width),
    )
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(model, config)
    if engine is None:
        sys.exit("TensorRT built no engine: its messages above say why.")
    (here / "model.engine").write_bytes(engine)


if __name__ == "__main__":
    main()
