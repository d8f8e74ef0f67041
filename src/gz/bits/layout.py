# SPDX-License-Identifier: Apache-2.0
"""Structs and device windows: annotated classes with the layout that C gives them.

The layout is computed when it is first asked for, so that structs may refer to each other in circles; one with stated
offsets or a stated size is looked at when it is declared, if all its types are there.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Protocol, Self, TypeVar

from gz.bits import annotation as annotations
from gz.bits.types import ArrayType, Type, align_of, size_of
from gz.bits.view import load, store

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

if TYPE_CHECKING:
    from collections.abc import Iterator

    class Array(Generic[T]):
        """Elements in place; the bounds are always checked."""

        def __getitem__(self, index: int) -> T: ...
        def __setitem__(self, index: int, value: T) -> None: ...
        def __len__(self) -> int: ...
        def __iter__(self) -> Iterator[T]: ...

    class ReadOnly(Protocol[T_co]):
        """An array parameter that is only read."""

        def __getitem__(self, index: int, /) -> T_co: ...
        def __len__(self) -> int: ...

    Ptr = Annotated[T, "pointer"]
    Held = Annotated[T, "held"]
else:
    Array = annotations.Array
    ReadOnly = annotations.ReadOnly
    Ptr = annotations.Ptr
    Held = annotations.Held


class Placement:
    """Where a field lies and how many elements it has, as written in the class."""

    def __init__(self, counts: tuple[int, ...], offset: int | None, align: int | None, *, shared: bool = False) -> None:
        for count in counts:
            if not isinstance(count, int) or count < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"array({count!r}): the length is a number")
        if align is not None and (align < 1 or align & align - 1):
            raise TypeError(f"align={align} is no power of two")
        self.counts, self.offset, self.align, self.shared = counts, offset, align, shared


def at(offset: int) -> Any:
    """The field lies `offset` bytes from the start, and no other does."""
    return Placement((), offset, None)


def union(offset: int) -> Any:
    """The field lies `offset` bytes from the start, where other fields that say so lie too."""
    return Placement((), offset, None, shared=True)


def array(*counts: int, at: int | None = None, align: int | None = None) -> Any:
    """`regs: Array[T] = array(31)`: 31 elements in place; `array(4, 8)` for an Array[Array[T]]."""
    if not counts:
        raise TypeError("array() needs a length")
    return Placement(counts, at, align)


class Field:
    """A field of a struct or window. On a view it reads and writes memory."""

    def __init__(self, name: str, annotation: Any, placement: Placement | None) -> None:
        self.name, self.annotation, self.placement = name, annotation, placement
        self.type: Type
        self.offset: int

    def __get__(self, instance: Layout | None, owner: LayoutMeta) -> Any:
        if instance is None:
            return self
        owner.fields  # noqa: B018 - computes the layout
        return load(instance._bytes, self.offset, self.type)  # pyright: ignore[reportPrivateUsage]

    def __set__(self, instance: Layout, value: Any) -> None:
        type(instance).fields  # noqa: B018
        store(instance._bytes, self.offset, self.type, value)  # pyright: ignore[reportPrivateUsage]


def _register(cls: LayoutMeta) -> None:
    same = annotations.LAYOUTS.setdefault(cls.__name__, [])
    same[:] = [other for other in same if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__)]
    same.append(cls)


class LayoutMeta(type):
    """Computes layouts; `size` and `offset` are answered here so that fields may have these names."""

    _declared: list[Field]
    _computed: tuple[dict[str, Field], int, int] | None
    _busy: bool
    _minimum: tuple[int, int]

    def __new__(
        mcs, name: str, bases: tuple[type, ...], body: dict[str, Any], align: int = 1, size: int = 0
    ) -> LayoutMeta:
        if align < 1 or align & align - 1:
            raise TypeError(f"{name}: align={align} is no power of two")
        for base in bases:
            if isinstance(base, LayoutMeta) and base._declared:
                raise TypeError(f"{name}: a struct cannot extend {base.__name__}; make it its first field")
        declared: list[Field] = []
        for field_name, annotation in body.get("__annotations__", {}).items():
            if str(annotation).startswith("ClassVar"):
                continue
            placement = body.get(field_name)
            if placement is not None and not isinstance(placement, Placement):
                raise TypeError(f"{name}.{field_name}: memory starts as zeros, a field has no default")
            body[field_name] = Field(field_name, annotation, placement)
            declared.append(body[field_name])
        for field_name, value in body.items():
            if isinstance(value, Placement):
                raise TypeError(f"{name}.{field_name} needs a type: {field_name}: u32 = at(…)")
        cls = super().__new__(mcs, name, bases, body)
        cls._declared, cls._computed, cls._busy, cls._minimum = declared, None, False, (size, align)
        _register(cls)
        if size or any(field.placement is not None and field.placement.offset is not None for field in declared):
            with contextlib.suppress(_UnknownYet):
                _compute(cls)
        return cls

    def __init__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any], align: int = 1, size: int = 0) -> None:
        super().__init__(name, bases, body)

    @property
    def is_window(cls) -> bool:
        """Is it a device window?"""
        return issubclass(cls, Window)

    @property
    def fields(cls) -> dict[str, Field]:
        """Name to field, in the order of declaration."""
        return cls._layout()[0]

    @property
    def size(cls) -> int:
        """Bytes, a multiple of `align`."""
        return cls._layout()[1]

    @property
    def align(cls) -> int:
        """Bytes, a power of two."""
        return cls._layout()[2]

    @property
    def offset(cls) -> Any:
        """`X.offset("field")`: bytes from the start."""
        return cls._offset

    def _offset(cls, name: str) -> int:
        if name not in cls.fields:
            raise AttributeError(f"{cls.__name__} has no field {name!r}")
        return cls.fields[name].offset

    def _layout(cls) -> tuple[dict[str, Field], int, int]:
        if cls._computed is None:
            if cls._busy:
                raise TypeError(f"{cls.__name__} contains itself: use Ptr[{cls.__name__}]")
            cls._busy = True
            try:
                cls._computed = _compute(cls)
            finally:
                cls._busy = False
        return cls._computed


def _is_shared(field: Field) -> bool:
    return field.placement is not None and field.placement.shared


class _UnknownYet(TypeError):
    """A field's annotation means nothing, or what is declared later."""


def _compute(cls: LayoutMeta) -> tuple[dict[str, Field], int, int]:
    least_size, align = cls._minimum  # pyright: ignore[reportPrivateUsage]
    names = {**vars(sys.modules[cls.__module__])} if cls.__module__ in sys.modules else {}
    cursor = size = 0
    fields: dict[str, Field] = {}
    for field in cls._declared:  # pyright: ignore[reportPrivateUsage]
        try:
            field.type = _in_place(annotations.type_of(field.annotation, names), field.placement)
            bytes, alignment = size_of(field.type), align_of(field.type)
        except annotations.AnnotationError as error:
            raise _UnknownYet(f"{cls.__name__}.{field.name}: {error}") from None
        except TypeError as error:
            raise TypeError(f"{cls.__name__}.{field.name}: {error}") from None
        placement = field.placement
        if placement is not None and placement.align is not None:
            alignment = max(alignment, placement.align)
        if placement is not None and placement.offset is not None:
            cursor = placement.offset
            if cursor < 0:
                raise TypeError(f"{cls.__name__}.{field.name}: an offset is not negative")
            if cursor % alignment:
                raise TypeError(f"{cls.__name__}.{field.name}: {cursor:#x} is not aligned to {alignment} bytes")
        cursor = -(-cursor // alignment) * alignment
        for other in fields.values():
            apart = cursor >= other.offset + size_of(other.type) or other.offset >= cursor + bytes
            if not apart and not (_is_shared(field) and _is_shared(other)):
                raise TypeError(f"{cls.__name__}.{field.name} at {cursor:#x} overlaps {other.name}")
        field.offset = cursor
        cursor += bytes
        if least_size and cursor > least_size:
            raise TypeError(f"{cls.__name__}.{field.name} ends at {cursor:#x}, beyond size={least_size:#x}")
        size, align = max(size, cursor), max(align, alignment)
        fields[field.name] = field
    size = -(-size // align) * align
    if least_size:
        if size > least_size:
            raise TypeError(f"{cls.__name__} has {size:#x} bytes, more than size={least_size:#x}")
        size = least_size
    return fields, size, align


def _in_place(type: Type, placement: Placement | None) -> Type:
    counts = placement.counts if placement is not None else ()
    return _with_counts(type, list(counts))


def _with_counts(type: Type, counts: list[int]) -> Type:
    if isinstance(type, ArrayType):
        if not counts:
            raise TypeError(f"{type} has no length: write = array(n)")
        return ArrayType(_with_counts(type.element, counts[1:]), counts[0])
    if counts:
        raise TypeError(f"{type} is no array: annotate it Array[{type}]")
    return type


class Layout(metaclass=LayoutMeta):
    """What Struct and Window share."""

    _bytes: ClassVar[memoryview]  # of each view; no field

    @classmethod
    def view(cls, buffer: Any, offset: int = 0) -> Self:
        """This layout over a writable buffer; attributes are single loads and stores of it.

        The offset must keep the alignment that the loads need; ValueError if not, or if the buffer ends too early.
        """
        memory = memoryview(buffer).cast("B") if memoryview(buffer).format != "B" else memoryview(buffer)
        if not 0 <= offset <= len(memory) - cls.size:
            raise ValueError(
                f"{cls.__name__} at {offset:#x} needs {cls.size:#x} bytes, the buffer has {len(memory):#x}"
            )
        if offset % min(cls.align, 8):
            raise ValueError(f"{cls.__name__} at {offset:#x} is not aligned to {min(cls.align, 8)} bytes")
        return cls._over(memory[offset : offset + cls.size])

    @classmethod
    def _over(cls, memory: memoryview) -> Self:
        instance = object.__new__(cls)
        object.__setattr__(instance, "_bytes", memory)
        return instance

    def __init__(self) -> None:
        raise TypeError(f"structs lie in storage: storage({type(self).__name__}) or {type(self).__name__}.view(buffer)")

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in type(self).fields)
        return f"{type(self).__name__}({', '.join(shown)})"


class Struct(Layout):
    """Annotated fields in C layout. `class X(Struct, align=4096)`; `size=` fixes the size."""


class Window(Layout):
    """Registers of a device: every access is one plain load or store of the field's width."""


def sizeof(type: Any) -> int:
    """Bytes that a value of the type takes in memory."""
    return size_of(annotations.type_of(type))
