"""Plain NumPy versions of what the pipeline does to an image, driven by the same parameters.

Float64 throughout, one rounding per operator, no library but NumPy; of ours only the record of the parameters.
Images are [H, W], gray levels 0 to 255.
"""

import math

import numpy as np
import numpy.typing as npt

from loaders.views import ViewParameters

Gray = npt.NDArray[np.uint8]
Real = npt.NDArray[np.float64]


def filter_weight(distance: float, interpolation: str) -> float:
    """Weight of a source pixel at this distance, in units of the stretched filter: triangle or Keys' cubic, -0.5."""
    x = abs(distance)
    if interpolation == "linear":
        return max(0.0, 1.0 - x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def resize_matrix(length: int, start: float, end: float, output: int, interpolation: str) -> Real:
    """Weights [output, length] that resample start .. end of a line of pixels; end before start mirrors it.

    When shrinking, the filter is stretched so that it covers every pixel (antialiasing). It reaches beyond the window
    into the image; beyond the image the border pixel repeats.
    """
    scale = abs(end - start) / output
    stretch = max(scale, 1.0)
    support = (1 if interpolation == "linear" else 2) * stretch
    matrix = np.zeros((output, length))
    for i in range(output):
        place = i if end > start else output - 1 - i
        center = min(start, end) + (place + 0.5) * scale
        for j in range(math.floor(center - support), math.ceil(center + support) + 1):
            matrix[i, min(max(j, 0), length - 1)] += filter_weight((j + 0.5 - center) / stretch, interpolation)
    return np.asarray(matrix / matrix.sum(axis=1, keepdims=True))


def resize(
    image: Gray, start: tuple[float, float], end: tuple[float, float], output: tuple[int, int], interpolation: str
) -> Gray:
    """The window `start` .. `end` (y, x) of an image, as `output` (height, width)."""
    rows = resize_matrix(image.shape[0], start[0], end[0], output[0], interpolation)
    columns = resize_matrix(image.shape[1], start[1], end[1], output[1], interpolation)
    return to_gray(rows @ image.astype(np.float64) @ columns.T)


def brightness_contrast(image: Gray, brightness: float, contrast: float) -> Gray:
    """Brightness b and contrast c about the mean m: b * (m + c * (x - m))."""
    mean = image.mean()
    return to_gray(brightness * (mean + contrast * (image - mean)))


def gaussian_blur(image: Gray, sigma: float) -> Gray:
    """A true Gaussian, cut at three sigma, the image mirrored at its border pixels."""
    if sigma == 0:
        return image
    radius = math.ceil(3 * sigma)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    padded = np.pad(image.astype(np.float64), radius, mode="reflect")
    height, width = image.shape
    along_x = sum(w * padded[:, k : k + width] for k, w in enumerate(weights))
    return to_gray(np.asarray(sum(w * along_x[k : k + height] for k, w in enumerate(weights))))


def solarize(image: Gray) -> Gray:
    """Gray levels from 128 up inverted."""
    return np.where(image >= 128, 255 - image, image).astype(np.uint8)


def affine(image: Gray, rotate: float, shear: float) -> Gray:
    """Sheared along x, then turned clockwise, degrees, about the center; bilinear, zeros beyond the border."""
    if rotate == 0 and shear == 0:
        return image
    size = image.shape[0]
    turn = math.radians(rotate)
    sheared = np.array([[1, -math.tan(math.radians(shear))], [0, 1]])
    turned = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    back = np.linalg.inv(turned @ sheared)  # of (x, y)
    out = np.zeros(image.shape)
    padded = np.pad(image.astype(np.float64), 1)
    for row in range(size):
        for column in range(size):
            x, y = back @ np.array([column + 0.5 - size / 2, row + 0.5 - size / 2]) + size / 2 - 0.5
            left, top = math.floor(x), math.floor(y)
            for j, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
                for i, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
                    if -1 <= i <= size and -1 <= j <= size:
                        out[row, column] += weight_x * weight_y * padded[j + 1, i + 1]
    return to_gray(out)


def view(image: Gray, parameters: ViewParameters, i: int, size_px: int, interpolation: str) -> Gray:
    """View i of these: crop and resize, flip, rotate and shear, brightness and contrast, blur, solarize."""
    start = tuple(parameters.window_start_n2[i].tolist())
    end = tuple((parameters.window_start_n2[i] + parameters.window_size_n2[i]).tolist())
    if parameters.flip_n[i]:
        start, end = (start[0], end[1]), (end[0], start[1])
    out = resize(image, start, end, (size_px, size_px), interpolation)
    out = affine(out, float(parameters.rotate_n[i]), float(parameters.shear_n[i]))
    out = brightness_contrast(out, float(parameters.brightness_n[i]), float(parameters.contrast_n[i]))
    out = gaussian_blur(out, float(parameters.blur_sigma_n[i]))
    return solarize(out) if parameters.solarize_n[i] else out


def canvas(
    image: Gray,
    start: tuple[float, float],
    size: tuple[float, float],
    flip: bool,
    output: tuple[int, int],
    size_px: int,
    interpolation: str,
) -> Gray:
    """A window of an image, as `output` (height, width), in the upper left of a canvas of zeros."""
    end = (start[0] + size[0], start[1] + size[1])
    if flip:
        start, end = (start[0], end[1]), (end[0], start[1])
    out = np.zeros((size_px, size_px), np.uint8)
    out[: output[0], : output[1]] = resize(image, start, end, output, interpolation)
    return out


def to_gray(values: Real) -> Gray:
    """Rounded to the nearest level and clipped."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
