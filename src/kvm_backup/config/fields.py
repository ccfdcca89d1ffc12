"""What the tables of the settings share: how a name, a size and a path are written."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from kvm_backup.domain.sizes import parse_size

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
Name = Annotated[str, Field(pattern=rf"^{NAME_PATTERN}$")]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


class Table(BaseModel):
    """A table of the settings file: read once, and a key that is unknown is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
