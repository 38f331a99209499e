"""A model whose weights lie on the CPU and are copied to the device while it runs.

Weights do not change. So moving to the device is a copy, and moving back is only letting the
model's tensors name the CPU's memory again: nothing is copied back.

The weights lie in a few slabs of memory: few copies, and little waste, since PyTorch rounds
each piece of pinned memory up to a power of two.

Does not know: other models, when this one is needed, streams.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from trellis2_server.engines.trellis2.weight_copies import Upload, WeightCopies

Tensor = Any

#: As PyTorch's allocator on the device: kernels are chosen by alignment, too.
_ALIGNMENT: Final = 512
#: Bytes of a slab, a power of two; a larger tensor has a slab of its own.
_SLAB_BYTES: Final = 256 * 2**20


class WeightMirror:
    """Weights of one model on the CPU, and on the device while that is needed.

    Args:
        module: the model; its tensors change their memory, and stay the same objects.
        copies: of its device.
        is_on_device: where the weights are now. If they are on the device, the CPU's copy is
            made when they leave it for the first time.
    """

    def __init__(self, module: Any, copies: WeightCopies, *, is_on_device: bool) -> None:
        self._module = module
        self._copies = copies
        self._tensors: list[Tensor] = []
        self._places: list[tuple[int, int]] = []
        self._slabs: list[Tensor] = []
        self._upload: Upload | None = None
        self._is_on_device = is_on_device
        self.size = sum(_padded(tensor) for tensor in _tensors(module))

    @property
    def is_on_device(self) -> bool:
        """Whether the model runs on the device."""
        return self._is_on_device

    @property
    def device_bytes(self) -> int:
        """Bytes of the device that the weights take now, also while they are copied there."""
        return self.size if self._is_on_device or self._upload is not None else 0

    def keep_on_host(self) -> None:
        """Copy the weights to the CPU's memory of this mirror, if they are not there."""
        if self._slabs:
            return
        with self._copies.ordinary_tensors():
            self._tensors = _tensors(self._module)
            self._places, lengths = _pack([_padded(tensor) for tensor in self._tensors])
            slabs = [self._copies.host_slab(length) for length in lengths]
            for tensor, view in zip(self._tensors, self._views(slabs), strict=True):
                self._copies.store(view, tensor.data)
        self._swap(slabs)
        self._slabs = slabs
        self._is_on_device = False

    def copy_ahead(self) -> None:
        """Begin to copy the weights to the device, which goes on computing."""
        if not self._is_on_device and self._upload is None:
            self.keep_on_host()
            self._upload = self._copies.upload(self._slabs, ahead=True)

    def to_device(self) -> None:
        """Let the model run on the device."""
        if self._is_on_device:
            return
        self.keep_on_host()
        if self._upload is None:
            self._upload = self._copies.upload(self._slabs)
        self._copies.wait(self._upload)
        self._swap(self._upload.slabs)
        self._is_on_device = True

    def to_host(self, *, keep_copy: bool = False) -> None:
        """Let the model name the CPU's memory.

        Args:
            keep_copy: whether the device's copy stays for the next `to_device`.
        """
        if self._is_on_device:
            if self._slabs:
                self._swap(self._slabs)
            else:
                self.keep_on_host()
            self._is_on_device = False
        if not keep_copy:
            self._upload = None

    def _swap(self, slabs: Any) -> None:
        with self._copies.ordinary_tensors():
            for tensor, view in zip(self._tensors, self._views(slabs), strict=True):
                tensor.data = view

    def _views(self, slabs: Any) -> list[Tensor]:
        """The model's tensors, as views of slabs."""
        views: list[Tensor] = []
        for tensor, (slab, start) in zip(self._tensors, self._places, strict=True):
            part = slabs[slab][start : start + tensor.numel() * tensor.element_size()]
            views.append(part.view(tensor.dtype).view(tensor.shape))
        return views


def _tensors(module: Any) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _padded(tensor: Tensor) -> int:
    return -(-tensor.numel() * tensor.element_size() // _ALIGNMENT) * _ALIGNMENT


def _pack(sizes: list[int]) -> tuple[list[tuple[int, int]], list[int]]:
    """Place pieces in slabs: (slab, start) of each, and the lengths of the slabs, bytes."""
    places: list[tuple[int, int]] = []
    lengths: list[int] = []
    for size in sizes:
        slab = next((i for i, used in enumerate(lengths) if used + size <= _SLAB_BYTES), None)
        if slab is None:
            slab = len(lengths)
            lengths.append(0)
        places.append((slab, lengths[slab]))
        lengths[slab] += size
    return places, lengths
