# What maturin generates: the library, and cffi's declarations of it.
from typing import Any

ffi: Any
lib: Any
