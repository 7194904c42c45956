"""A GPU that is not there, for a process of its own: it computes on the CPU, and refuses what a
real one would refuse: tensors of two devices in one operation, a generator of the other device,
numpy on its tensors. Torch and this library see the device cuda:0."""

from types import SimpleNamespace

import torch
import torch._dynamo  # now: it cannot be imported where torch.Generator is another class
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

CUDA, REAL = torch.device('cuda', 0), 'pretended:0'
_T = torch.Tensor
_NUMBERS = {_T.item, _T.tolist, _T.__float__, _T.__int__, _T.__bool__, _T.__index__, _T.__format__}
counted = dict(operations=0)  # On the GPU
_ON_GPU = set()  # Addresses of the generators there


class OnGpu(torch.Tensor):
    "Says that it lies on the GPU; its numbers lie in `held`, on the CPU"

    @staticmethod
    def __new__(cls, held):
        form = dict(dtype=held.dtype, layout=held.layout, device=REAL)
        form |= dict(strides=held.stride(), storage_offset=held.storage_offset())
        new = torch.Tensor._make_wrapper_subclass(cls, held.shape, **form)
        new.held = held
        return new

    def __repr__(self):
        return f'OnGpu({self.held!r})'

    def __tensor_flatten__(self):
        return ['held'], None

    @staticmethod
    def __tensor_unflatten__(inner, meta, size, stride):
        return OnGpu(inner['held'])

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return _compute(op, args, kwargs or {})

    @classmethod
    def __torch_function__(cls, f, types, args=(), kwargs=None):
        first = args[0] if args else None
        if isinstance(first, OnGpu):
            if f in _NUMBERS:
                return f(first.held, *args[1:])
            if f in (_T.numpy, _T.__array__):
                raise TypeError("can't convert cuda:0 device type tensor to numpy; use .cpu()")
            if f == _T.device.__get__:
                return CUDA
            if f == _T.is_cuda.__get__:
                return True
        with torch._C.DisableTorchFunctionSubclass():
            return f(*args, **(kwargs or {}))


def _tensors(x):
    "All tensors in nested lists, tuples and dicts; a few times as fast as torch's `tree_flatten`"
    if isinstance(x, torch.Tensor):
        return [x]
    if not isinstance(x, (list, tuple, dict)):
        return []
    return [t for a in (x.values() if isinstance(x, dict) else x) for t in _tensors(a)]


def _each(f, x):
    "f of everything in nested lists, tuples and dicts"
    if isinstance(x, dict):
        return {k: _each(f, a) for k, a in x.items()}
    return type(x)(_each(f, a) for a in x) if isinstance(x, (list, tuple)) else f(x)


def _check_devices(op, args, kwargs):
    "Refuse tensors of both devices; a number from the CPU and its indices may join"
    aten, flat = torch.ops.aten, _tensors((args, kwargs))
    if not any(map(_is_gpu, flat)) or op in (aten._to_copy.default, aten.copy_.default):
        return
    if op in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
        flat = _tensors((args[0], args[2:3])) if _is_gpu(args[0]) else flat
    strange = [a for a in flat if not _is_gpu(a) and a.ndim > 0]
    if strange:
        raise RuntimeError(
            f'{op}: expected all tensors on one device, found one of shape '
            f'{tuple(strange[0].shape)} on the CPU beside one on cuda:0'
        )


def _is_gpu(a):
    return isinstance(a, OnGpu)


def _compute(op, args, kwargs):
    "Run an operation on what the tensors hold"
    counted['operations'] += 1
    _check_devices(op, args, kwargs)
    some, asked = any(map(_is_gpu, _tensors((args, kwargs)))), kwargs.get('device')
    to_gpu = some if asked is None else torch.device(asked).type == 'pretended'
    _check_generator(kwargs, to_gpu)
    bare = lambda x: x.held if _is_gpu(x) else x
    ours, kw = _each(bare, args), _each(bare, kwargs)
    if asked is not None:
        kw['device'] = torch.device('cpu')
    if op is torch.ops.aten._fused_sdp_choice.default:
        return 0  # the plain form
    out = op(*ours, **kw)
    out = _each(lambda x: OnGpu(x) if to_gpu and isinstance(x, torch.Tensor) else x, out)
    return return_and_correct_aliasing(op, args, kwargs, out) if some and to_gpu else out


def _check_generator(kwargs, on_gpu):
    gen = kwargs.get('generator')
    if gen is not None and (gen._cdata in _ON_GPU) != on_gpu:
        raise RuntimeError('the generator and the numbers to be drawn are on different devices')


class _Gpu(TorchDispatchMode):
    "Catches what makes a tensor on the GPU out of none there"

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = str(kwargs.get('device')).startswith('pretended')
        if made or any(map(_is_gpu, _tensors((args, kwargs)))):
            return _compute(op, args, kwargs)
        _check_generator(kwargs, False)
        return op(*args, **kwargs)


_HALF = (
    *(torch.conv2d, torch.conv3d, torch.conv_transpose2d, torch.conv_transpose3d, torch.einsum),
    *(torch.nn.functional.linear, torch.matmul, torch.bmm, torch.baddbmm, _T.matmul, _T.__matmul__),
)  # What autocast computes in half precision


class _Named(TorchFunctionMode):
    "Brings names of the device to torch, and autocast to what it concerns"

    def __torch_function__(self, f, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if f is torch.device or 'autocast' in getattr(f, '__name__', ''):
            return f(*args, **kwargs)
        args, kwargs = [_real(a) for a in args], {k: _real(v) for k, v in kwargs.items()}
        if f in _HALF and torch.is_autocast_enabled('cuda'):
            half = torch.get_autocast_dtype('cuda')
            low = lambda a: a.to(half) if _is_gpu(a) and a.dtype == torch.float32 else a
            args = _each(low, args)
        return f(*args, **kwargs)


def _real(a):
    isdevice = isinstance(a, (str, torch.device)) and str(a) in ('cuda', 'cuda:0')
    return torch.device(REAL) if isdevice else a


class AnyGenerator(torch.Generator):
    "A generator that lies where it is asked to, the GPU too"

    def __new__(cls, device='cpu'):
        new = super().__new__(cls, device='cpu')
        new.on_gpu = torch.device(device).type in ('cuda', 'pretended')
        (_ON_GPU.add if new.on_gpu else _ON_GPU.discard)(new._cdata)
        return new

    @property
    def device(self):
        return CUDA if self.on_gpu else torch.device('cpu')


def _nothing(*args, **kwargs):
    return None


_PROPERTIES = SimpleNamespace(name='pretended', total_memory=2**30, multi_processor_count=1)
_FOUND = dict(
    _lazy_init=_nothing,
    is_available=lambda: True,
    is_initialized=lambda: True,
    is_bf16_supported=lambda *a, **k: True,
    get_device_name=lambda *a: 'pretended',
    set_device=_nothing,
    get_device_properties=lambda *a: _PROPERTIES,
    current_device=lambda: 0,
    synchronize=_nothing,
    device_count=lambda: 1,
    manual_seed_all=_nothing,
    get_rng_state_all=lambda: [torch.zeros(16, dtype=torch.uint8)],
    set_rng_state_all=_nothing,
    reset_peak_memory_stats=_nothing,
    max_memory_allocated=lambda *a: 1 << 20,
    empty_cache=_nothing,
)


def pretend():
    "From now on this process has a GPU"
    for name, value in _FOUND.items():
        setattr(torch.cuda, name, value)
    _setup_privateuseone_for_python_backend('pretended')
    torch.Generator = AnyGenerator
    for mode in (_Gpu(), _Named()):
        mode.__enter__()
