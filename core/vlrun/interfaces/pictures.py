"""How a backbone that reads pictures wants them (this module imports no torch)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PictureShape:
    """The size to which pictures are scaled, with Pillow's bicubic filter, before a backbone gets them.

    Attributes:
        shorter: the shorter side in pixels.
        longer: the longer side is no more than this, and the shorter one then less; None: no limit.
        multiple: both sides are rounded down to a multiple of this.
        crop: whether the square in the middle is cut out, ``shorter`` wide.
    """

    shorter: int
    longer: int | None = None
    multiple: int = 1
    crop: bool = False

    def __str__(self) -> str:
        if self.crop:
            return f"{self.shorter} x {self.shorter} from the middle"
        limit = f", the longer at most {self.longer}" if self.longer else ""
        return f"shorter side {self.shorter}{limit}"

    def scaled(self, height: int, width: int) -> tuple[int, int]:
        """The size (height, width) to which a picture is scaled, before anything is cut out."""
        if self.crop:  # the longer side rounded down, as the image processor of CLIP does
            if height < width:
                return self.shorter, max(self.shorter, int(self.shorter * width / height))
            return max(self.shorter, int(self.shorter * height / width)), self.shorter
        scale = self.shorter / min(height, width)
        if self.longer is not None and max(height, width) * scale > self.longer:
            scale *= self.longer / (max(height, width) * scale)
        sides = (int(side * scale + 0.5) // self.multiple * self.multiple for side in (height, width))
        new_height, new_width = (max(self.multiple, side) for side in sides)
        return new_height, new_width
