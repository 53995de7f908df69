"""A property that is computed once, without the lock that Python 3.11 takes for it: a step has a dozen of them."""

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

T = TypeVar("T")


class once(Generic[T]):  # noqa: N801, a decorator
    """A property of an object that never changes, computed when it is first asked for.

    As `functools.cached_property` from Python 3.12 on: two threads that ask at the same moment may both compute it.

    Example:
        >>> class Circle:
        ...     @once
        ...     def area(self) -> float:
        ...         print("computed")
        ...         return 3.14
        >>> circle = Circle()
        >>> circle.area + circle.area
        computed
        6.28
    """

    def __init__(self, function: Callable[[Any], T]) -> None:
        self.function, self.__doc__ = function, function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        """Remember under which name the object keeps the value."""
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type | None = None) -> T: ...

    def __get__(self, instance: object | None, owner: type | None = None) -> T | Self:
        """Compute the value, and keep it where Python looks before it asks here."""
        if instance is None:
            return self
        value: T = self.function(instance)
        instance.__dict__[self.name] = value
        return value
