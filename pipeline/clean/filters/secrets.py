"""Secrets: access tokens and private keys that a model must not learn.

They are found by the token detectors of `detect-secrets` (Yelp); its entropy and keyword detectors,
which object to ordinary code, are left out, and nothing is verified over the network. Whatever the
text, the time is linear in its length.
"""

import functools
import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import polars as pl

from gristmill.pipeline.clean import tokens
from gristmill.pipeline.records.text import Part, texts


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """Drops records with access tokens or private keys: `secret: aws_key`."""

    part: Part = "all"

    def reasons(self, records: pl.DataFrame) -> pl.Series:
        why = [next(_secrets(text), None) for text in texts(records, self.part)]
        return pl.Series("why", why, dtype=pl.String)


_DETECTORS = {
    "aws_key": "aws.AWSKeyDetector",
    "artifactory_token": "artifactory.ArtifactoryDetector",
    "azure_storage_key": "azure_storage_key.AzureStorageKeyDetector",
    "discord_token": "discord.DiscordBotTokenDetector",
    "github_token": "github_token.GitHubTokenDetector",
    "gitlab_token": "gitlab_token.GitLabTokenDetector",
    "mailchimp_key": "mailchimp.MailchimpDetector",
    "private_key": "private_key.PrivateKeyDetector",
    "pypi_token": "pypi_token.PypiTokenDetector",
    "sendgrid_key": "sendgrid.SendGridDetector",
    "slack_token": "slack.SlackDetector",
    "square_token": "square_oauth.SquareOAuthDetector",
    "stripe_key": "stripe.StripeDetector",
    "telegram_token": "telegram_token.TelegramBotTokenDetector",
    "twilio_key": "twilio.TwilioKeyDetector",
    "password_in_address": "basic_auth.BasicAuthDetector",
}


def _secrets(text: str) -> Iterator[str]:
    """Names of the secrets in a text. AWS writes EXAMPLE into the keys of its manuals."""
    for name, found in _detectors().items():
        if any("EXAMPLE" not in secret for secret in found(text)):
            yield f"secret: {name}"


@functools.cache
def _detectors() -> dict[str, Callable[[str], Iterable[str]]]:
    found: dict[str, Callable[[str], Iterable[str]]] = {}
    for name, place in _DETECTORS.items():
        module, cls = place.split(".")
        plugin = vars(importlib.import_module(f"detect_secrets.plugins.{module}"))[cls]()
        found[name] = plugin.analyze_string
    return {**found, "jwt": tokens.jwt, "npm_token": tokens.npm, "openai_key": tokens.openai}
