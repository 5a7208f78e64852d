"""Model roles bound to references, and the one model that is in memory."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gristmill.pipeline.models.checkpoint import learning_rate
from gristmill.pipeline.models.load import LoadedModel, load, pick_device, pick_dtype
from gristmill.pipeline.models.passes import Passes
from gristmill.pipeline.models.reference import ModelFiles, resolve
from gristmill.pipeline.records.schema import digest
from gristmill.pipeline.records.store import NotMadeError, Store


@dataclass(frozen=True, kw_only=True)
class Models:
    """Model roles bound to references; a role may hold an ordered list of them (checkpoints)."""

    store: Store
    roles: Mapping[str, tuple[str, ...]]
    allow_network: bool = False
    shares: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # see `weights`
    _files: dict[str, ModelFiles] = field(default_factory=dict, compare=False, repr=False)
    _resident: dict[str, LoadedModel] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """What travels to another process: all but the model in memory."""
        return {**vars(self), "_resident": {}}

    def files(self, role: str) -> tuple[ModelFiles, ...]:
        """The resolved models of a role.

        Raises:
            ValueError: no model is bound to the role.
        """
        if role not in self.roles:
            bound = ", ".join(sorted(self.roles)) or "none"
            raise ValueError(
                f"no model is bound to the role {role!r} (bound: {bound}): pass --model {role}=REF."
            )
        for reference in self.roles[role]:
            if reference not in self._files:
                self._files[reference] = resolve(
                    reference, self.store, allow_network=self.allow_network
                )
        return tuple(self._files[r] for r in self.roles[role])

    def weights(self, role: str) -> tuple[float, ...]:
        """The share of each model of a role; they add up to 1.

        What was bound with them; else checkpoints of a training run count by their mean learning
        rate, and models that do not tell any count alike.
        """
        if role in self.shares:
            return self.shares[role]
        rates = [learning_rate(f.path) for f in self.files(role)]
        known = [r for r in rates if r is not None]
        if len(known) < len(rates) or not math.fsum(known):
            known = [1.0] * len(rates)
        return tuple(r / math.fsum(known) for r in known)

    def bind(
        self, role: str, references: tuple[str, ...], shares: tuple[float, ...] | None = None
    ) -> "Models":
        """The same with one role bound (again); what is loaded stays shared."""
        kept = {r: s for r, s in self.shares.items() if r != role}
        return replace(
            self,
            roles={**self.roles, role: references},
            shares={**kept, role: shares} if shares else kept,
        )

    def planned(self, role: str, name: str, count: int, like: ModelFiles) -> "Models":
        """The same with a role bound to models that are still to be made, of another one's size.

        Args:
            role: what they will fill.
            name: tells them from all other models.
            count: how many there will be.
            like: in whose place they stand.
        """
        references = tuple(f"{name}-{k}" for k in range(count))
        for reference in references:
            self._files[reference] = replace(like, model_sha=digest([reference, like.model_sha]))
        return self.bind(role, references)

    def load(self, files: ModelFiles, passes: Passes, *, embedder: bool = False) -> LoadedModel:
        """The model in memory; it stays there until another one is asked for.

        Raises:
            NotMadeError: the store only finds, so that nothing is to be computed.
        """
        if not self.store.makes:
            raise NotMadeError(files.reference)
        device = pick_device(passes.device)
        how = [device, pick_dtype(passes.dtype, device), passes.max_length, passes.overlong]
        name = digest([files.fingerprint, *how, embedder])
        if name not in self._resident:
            self._resident.clear()  # before loading: two large models may not fit together
            self._resident[name] = load(
                files,
                passes.chat(files),
                device=passes.device,
                dtype=passes.dtype,
                embedder=embedder,
            )
        return replace(self._resident[name], files=files)  # the same bytes may lie elsewhere

    def describe(self, roles: Sequence[str]) -> list[dict[str, str]]:
        """What a manifest says of the models."""
        return [
            {
                "role": role,
                "id": f.reference,
                "model_sha": f.model_sha,
                "tokenizer_sha": f.tokenizer_sha,
                "chat_template_sha": f.chat_template_sha,
            }
            for role in roles
            for f in self.files(role)
        ]
