import re
import traceback
from pathlib import Path

import pytest

from synthagent.settings import PREFIX, ModelRole, Settings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHAGENT_PORT", "0")
    monkeypatch.setenv("SYNTHAGENT_DATABASE_URL", "sqlite:////tmp/a.db")
    monkeypatch.setenv("SYNTHAGENT_METRICS_PORT", "none")
    monkeypatch.setenv("SYNTHAGENT_TOOL_MOCK_ADDRESS", "tools:50051")
    settings = load_settings()
    assert settings.port == 0
    assert settings.database_url == "sqlite:////tmp/a.db"
    assert settings.metrics_port is None
    assert settings.tool_mock_address == "tools:50051"
    assert settings.rollout_address is None


def test_an_override_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHAGENT_PORT", "1234")
    assert load_settings(port=0).port == 0


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("SYNTHAGENT_DATABSE_URL", "SYNTHAGENT_DATABASE_URL"),
        ("SYNTHAGENT_PORTS", "SYNTHAGENT_PORT"),
        ("SYNTHAGENT_DRAIN", "SYNTHAGENT_DRAIN_SECONDS"),
        ("synthagent_hots", "SYNTHAGENT_HOST"),
        ("SYNTHAGENT_JUDGE__MODLE", "SYNTHAGENT_JUDGE__MODEL"),
        ("SYNTHAGENT_JUGDE__MODLE", "SYNTHAGENT_JUDGE__MODEL"),
        ("SYNTHAGENT_TEACHER__MAX_TOKEN", "SYNTHAGENT_TEACHER__MAX_TOKENS"),
        ("SYNTHAGENT_USER__MODEL__NAME", "SYNTHAGENT_USER__MODEL"),
        ("SYNTHAGENT_PORT__NUMBER", "SYNTHAGENT_PORT"),
    ],
)
def test_an_unknown_variable_names_the_closest(
    variable: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(SettingsError, match=rf"{variable} is no setting; did you mean {meant}\?"):
        load_settings()


def test_an_unknown_override_names_the_closest() -> None:
    with pytest.raises(SettingsError, match="did you mean SYNTHAGENT_PORT"):
        load_settings(prot=1)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("port", "70000", "65535"),
        ("port", "many", "integer"),
        ("drain_seconds", "-1", "greater than or equal to 0"),
        ("log_format", "xml", "console"),
        ("database_url", "synthagent.db", "no database URL"),
        ("database_url", "sqlite://", "must name a file"),
        ("database_url", "sqlite:///:memory:", "must name a file"),
    ],
)
def test_a_value_that_does_not_fit_says_why(
    name: str, value: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = PREFIX + name.upper()
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"^{variable} is {re.escape(repr(value))}.*{why}"):
        load_settings()


def test_a_role_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHAGENT_TOOL__BASE_URL", "http://localhost:8000/v1")
    monkeypatch.setenv("SYNTHAGENT_TOOL__MODEL", "small")
    monkeypatch.setenv("SYNTHAGENT_TOOL__TEMPERATURE", "none")
    monkeypatch.setenv("SYNTHAGENT_TOOL__API_KEY", "sk-secret")
    tool = load_settings().tool
    assert tool is not None
    assert (tool.model, tool.temperature, tool.max_tokens) == ("small", None, 1024)
    assert tool.api_key is not None
    assert tool.api_key.get_secret_value() == "sk-secret"
    assert load_settings().judge is None


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"API_KEY": "sk-secret"}, "JUDGE__BASE_URL is not set, and the judge model needs it"),
        ({"BASE_URL": "http://h/v1", "API_KEY": "sk-secret"}, "JUDGE__MODEL is not set"),
        ({"MODEL": "m", "BASE_URL": "http://h/v1", "ATTEMPTS": "0"}, "ATTEMPTS is '0'.*or equal"),
        ({"MODEL": "m", "BASE_URL": "h:1", "API_KEY": "sk-secret"}, "BASE_URL is 'h:1'"),
        ({"MODEL": "m", "BASE_URL": "ftp://u:sk-secret@h"}, r"BASE_URL is 'ftp://u:\*\*\*@h'"),
        ({"": "sk-secret"}, "SYNTHAGENT_JUDGE is no setting by itself"),
        ({"": '{"api_key": "sk-secret"}'}, "SYNTHAGENT_JUDGE__BASE_URL is not set"),
    ],
)
def test_a_role_that_does_not_fit_says_why_and_never_shows_the_key(
    variables: dict[str, str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for field, value in variables.items():
        monkeypatch.setenv("SYNTHAGENT_JUDGE" + (f"__{field}" if field else ""), value)
    with pytest.raises(SettingsError, match=text) as caught:
        load_settings()
    assert "sk-secret" not in "".join(traceback.format_exception(caught.value))


def test_every_setting_documents_itself() -> None:
    for name, field in (Settings.model_fields | ModelRole.model_fields).items():
        assert field.description, name
        if type(None) in getattr(field.annotation, "__args__", ()):
            assert "none" in field.description.lower(), f"{name}: what does None mean?"


def test_what_is_printed_hides_the_password() -> None:
    url = "postgresql+psycopg://trainer:s3cret@db:5432/synthagent"
    shown = load_settings(database_url=url).describe()
    assert set(shown) == set(Settings.model_fields)
    assert shown["database_url"] == "postgresql+psycopg://trainer:***@db:5432/synthagent"
    assert "s3cret" not in str(shown)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://db/synthagent?user=trainer&password=s3cret&sslmode=require",
        "postgresql+psycopg://trainer:p@s3cret@db/synthagent",
    ],
)
def test_what_is_printed_hides_a_password_wherever_it_stands(url: str) -> None:
    shown = load_settings(database_url=url, policy_base_url="http://host/v1?key=s3cret").describe()
    assert "s3cret" not in str(shown)
    assert "@db/synthagent" in str(shown) or "//db/synthagent?" in str(shown)


def test_what_is_printed_hides_keys_and_tokens() -> None:
    role = {"base_url": "https://sk-secret@host/v1", "model": "m", "api_key": "sk-secret"}
    shown = load_settings(judge=role, policy_base_url="http://u:sk-secret@host").describe()
    assert "sk-secret" not in str(shown)
    assert "https://***@host/v1" in str(shown)


def test_home_folders_are_expanded() -> None:
    assert load_settings(model_cache="~/models").model_cache == Path.home() / "models"
