"""Sound and broken images with hostile names: for a terminal, page, shell or file system."""

from support.bad_inputs.case import RGB, BadInput, bad, good, saved

NAMES = {
    "an escape sequence": "\x1b[2J\x1b[31mred\x1b]0;owned\x07.png",
    "a line break": "a\nerror: all is lost\n.png",
    "a carriage return": "wrong.png\rright.png",
    "markup of a page": "<script>alert(1)<%2fscript>.png",
    "an attribute": '"><img src=x onerror=alert(1)>.png'.replace("/", ""),
    "markup of the terminal": "[red]a[/red][link=file:a]b.png".replace("/", ""),
    "an unfinished tag": "[bold.png",
    "right to left": "street\u202egnp.exe.png",
    "no space at all": "a\u200b\u2060\ufeffb.png",
    "a leading dash": "-rf.png",
    "a leading double dash": "--overwrite.png",
    "dots": "...png",
    "a percent sign": "%s%n%(a)s.png",
    "braces": "{0.__class__}${HOME}`id`;.png",
    "a tilde": "~root.png",
    "a star": "*?[a-z].png",
    "letters of the world": "街 улица شارع 🛣.png",
    "letters in two ways": "u\u0308ber.png",
    "200 letters": "x" * 190 + ".png",
    "spaces at its ends": "  a .png",
    "a device of Windows": "NUL.png",
    "a byte that is no UTF-8": "a\udcffb.png",
}


def named() -> list[BadInput]:
    """Each once with a sound image and once with a broken one, whose error must name it."""
    content = saved(RGB, "PNG")
    sound = [good(f"named/{words}", name, content, RGB) for words, name in NAMES.items()]
    return sound + [
        bad(f"named/{words}, broken", name, content[:400]) for words, name in NAMES.items()
    ]
