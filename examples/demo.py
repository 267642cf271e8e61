"""Two real models in one minute: a handwritten digit, and speech in a recording.

    python examples/demo.py

The digit model is in this folder; the speech model comes from the `silero-vad` package
(`pip install --no-deps silero-vad` is enough, only its data file is used).
"""

import importlib.util
import wave
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

import onnxref

HERE = Path(__file__).parent
console = Console()


def recognise_digit() -> None:
    pixels = np.asarray(Image.open(HERE / "digit.png").resize((8, 8), Image.Resampling.BOX))
    image = pixels.astype(np.float32).reshape(1, 1, 8, 8) / 255
    result = onnxref.run(HERE / "digits.onnx", image)

    console.rule("[bold]A handwritten digit[/]")
    shades = " ░▒▓█"
    for row in image[0, 0]:
        console.print("   " + "".join(shades[round(float(v) * 4)] * 2 for v in row), highlight=False)
    table = Table("digit", "probability")
    for digit in np.argsort(result["probabilities"][0])[::-1][:3]:
        table.add_row(str(digit), f"{result['probabilities'][0, digit]:.4f}")
    console.print(table)
    console.print(f"The model reads a [bold]{result['label'][0]}[/].\n")


def find_speech() -> None:
    package = importlib.util.find_spec("silero_vad")
    if package is None or package.origin is None:
        console.print("Speech model not found: pip install --no-deps silero-vad")
        return
    session = onnxref.InferenceSession(Path(package.origin).parent / "data" / "silero_vad.onnx")
    with wave.open(str(HERE / "speech.wav")) as recording:
        rate = recording.getframerate()
        samples = np.frombuffer(recording.readframes(recording.getnframes()), "<i2") / np.float32(2**15)

    # The model takes 512 new samples at a time behind the last 64 old ones, and keeps a state.
    step, context = 512, 64
    padded = np.concatenate([np.zeros(context, np.float32), samples.astype(np.float32)])
    state = np.zeros((2, 1, 128), np.float32)
    speech = []
    for start in range(0, len(samples) - step + 1, step):
        feeds = {"input": padded[None, start : start + context + step], "state": state, "sr": np.array(rate)}
        probability, state = session.run(["output", "stateN"], feeds)
        speech.append(float(probability[0, 0]))

    console.rule("[bold]Speech in a recording[/]")
    seconds = step / rate
    line = "".join("█" if p > 0.5 else "·" for p in speech)
    width = int(1 / seconds)
    for i in range(0, len(line), width):
        console.print(f"   {i * seconds:4.1f} s  {line[i : i + width]}", highlight=False)
    share = sum(p > 0.5 for p in speech) / len(speech)
    console.print(f"Somebody speaks in {share:.0%} of {len(samples) / rate:.1f} s (█ = speech).")


if __name__ == "__main__":
    recognise_digit()
    find_speech()
