"""[retention]: which points stay; a repository and a VM may each say otherwise, key by key."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from kvm_backup.config.fields import Table
from kvm_backup.domain.retention import RetentionRule, RetentionWish, rule_with_wishes

_DEFAULT = RetentionRule()
_Count = Annotated[int, Field(ge=0, le=10_000)]
_AtLeastOne = Annotated[int, Field(ge=1, le=10_000)]
_Chain = Annotated[int, Field(ge=1, le=1000)]


class RetentionSettings(Table):
    """[retention]: for every VM in every repository, unless one of these says otherwise."""

    after_backup: bool = True
    last: _AtLeastOne = _DEFAULT.last
    daily: _Count = _DEFAULT.daily
    weekly: _Count = _DEFAULT.weekly
    monthly: _Count = _DEFAULT.monthly
    yearly: _Count = _DEFAULT.yearly
    good: _AtLeastOne = _DEFAULT.good
    chain: _Chain = _DEFAULT.chain


class RetentionOverride(Table):
    """[repository.retention] and [vm."NAME".retention]: a key that is not given is as in the table around it."""

    last: _AtLeastOne | None = None
    daily: _Count | None = None
    weekly: _Count | None = None
    monthly: _Count | None = None
    yearly: _Count | None = None
    good: _AtLeastOne | None = None
    chain: _Chain | None = None


def effective_rule(
    base: RetentionSettings,
    of_repository: RetentionOverride | None,
    wishes: Iterable[RetentionWish],
    of_vm: RetentionOverride | None,
) -> RetentionRule:
    """The rule for a VM in a repository: of each key what is said of the VM; else what the schedules want that back
    it up there, the largest number; else what is said of the repository; else `base`.
    """
    rule = overridden(RetentionRule(**base.model_dump(exclude={"after_backup"})), of_repository)
    return overridden(rule_with_wishes(rule, wishes), of_vm)


def overridden(rule: RetentionRule, override: RetentionOverride | None) -> RetentionRule:
    """The rule with the keys replaced that are given."""
    return rule if override is None else replace(rule, **override.model_dump(exclude_none=True))
