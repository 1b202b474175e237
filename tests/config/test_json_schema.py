"""The schema that editors use: made from the types, shipped up to date, of one mind with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from servekit.config.json_schema import SECTIONS, key_descriptions, schema, schema_text

CONFIG = Path(__file__).resolve().parents[2] / "config"
BAD = Path(__file__).parent / "bad"
# Rules between several keys, and of YAML itself, are beyond a schema.
BEYOND = {
    "analysis_rules", "bad_base_paths", "batch_sizes_not_ending_in_max", "batch_sizes_not_growing", "duplicate_label",
    "duplicate_model",
    "execution_size_above_max", "execution_size_without_splitting", "label_at_unserved_version", "monitoring_path",
    "monitoring_path_of_the_rest_api", "nested_without_end", "same_ports", "yaml_merges_each_other",
}  # fmt: skip


def test_the_shipped_schema_is_up_to_date() -> None:
    assert (CONFIG / "serving.schema.json").read_text() == schema_text(), (
        "servekit render --schema > config/serving.schema.json"
    )


def test_serving_yaml_names_its_schema_and_follows_it() -> None:
    text = (CONFIG / "serving.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=serving.schema.json\n")
    jsonschema.validate(yaml.safe_load(text), schema())


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(schema_text()))


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_key_is_described(section: Any) -> None:
    assert set(key_descriptions(section)) == set(section.model_fields)


@pytest.mark.parametrize("case", sorted({path.stem for path in BAD.glob("*.yaml")} - BEYOND))
def test_the_schema_refuses_what_servekit_refuses(case: str) -> None:
    try:
        document = yaml.safe_load((BAD / f"{case}.yaml").read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        return
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema())
