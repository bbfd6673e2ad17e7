import dataclasses
import hashlib
from importlib.resources import files

import pytest
from jsonschema import Draft202012Validator

import mace_jax_schemas
from mace_jax.artifacts import train_config
from mace_jax_schemas import current_version, kinds, load_schema

# SHA-256 of every released schema. A line is added, never changed.
RELEASED = {
    ("batch_plan", 1): "bc4cad3585b0e7dc9b8785c45d600f158ef5c88ed45a0e1c046cf599e0cad33b",
    ("batch_plan", 2): "27ecf77d727eb2e30a1ab7e7fb928507c99ba0379422eea08248f7fdf08257b0",
    ("batch_plan", 3): "b0374d9fac8b902892cbc49cdca7f0b54736b2324a34034f75eae6afd71d64e9",
    ("checkpoint", 1): "cc941eab1f4025257557b0e8bd56bc97638cae63763266c412fb931aac176268",
    ("dataset", 1): "8615be8b71fbe08ec007ade1b2e11ff43a603d5c920589e0cda770d25425683d",
    ("dataset", 2): "16b200838d0d6fa1d746b876a015b79962686b7ddd2c89752bc1425992fe0f69",
    ("index", 1): "f21c122b875896d0691eb45b5bd6bcf12fe446ca482efbe30afd833d338b5ae8",
    ("lammps_model", 1): "c2c0da5903ae97cafbae483a41f294cfd2438664ec5d1e22827075d58df12c0c",
    ("metrics", 1): "183235ae81840eb9c20280df187bc2ff2cbfa8b9e74efad3c62f35c1ea546a89",
    ("metrics", 2): "7c6b17d0bbe7d209491648a8188ec3b4871a9d7e797ca6c106f5dc1b4fd81674",
    ("model_bundle", 1): "cb7a671e76390d6b29418d873b61e8dc3d7508a25c9bfeea42e9b9a1508f5b6c",
    ("model_bundle", 2): "789f83f1f7667194750e9cb8fc8a9b1b3b196bf1a56de418451d89e9691e3099",
    ("predictions", 1): "b1618a111f226d5c05a3afa84d95ca87ef754adc7fe943c01e93b5293540b896",
    ("predictions", 2): "9d3465017a9ebaafc18dd08dd9a11d2779f297f2db5d7a73a2e980b722632259",
    ("predictions", 3): "6c16fef4a56f51dcb71ecbf7f52d7d43fd8935dcaf91f487cbbe98ecf44607eb",
    ("provenance", 1): "bf1d4a2f2185c0c81c507c074b8d0fe6e894c4bec8f2d0605f7b1b15303b6796",
    ("selection", 1): "2e37b46a318c075c328def8103c8c52c983092201f729679b0487bb0d6a60851",
    ("statistics", 1): "e13b899ceee21335beeaafd2630796f23bb00bd598da526bcfd3ae4cbfde1f9d",
    ("statistics", 2): "bd58048150de73d8103a6b2a32e22c8e6423731fa1a15c8352bb535c06ba85ed",
    ("train_config", 1): "022ca506323e405dc2b87b791bb1f4b7c2b463dd0d4e088bb0f6799b84fd3532",
    ("train_config", 2): "540de7a54c3bc910490caa6a446b0e04733b0a78fc321b59814668a11ca75f0a",
    ("train_config", 3): "c292f70e5b3e66e182fdb25e1f108910869b92c1f33f48286a9f647d8d41b688",
    ("train_config", 4): "6fa3d956448d8685ef0b808af4dcc49c14c21b184702722a5ce22f96bd2ce173",
    ("train_config", 5): "8705ec37a8a2be5568dc4021ca3a775b5f1405294adc6232eec35f94e2f628a2",
    ("train_config", 6): "ef095c3994106ae7bdf72bddc03e59f12a801e5768bf495850c6a4f001a242fb",
    ("training_sums", 1): "d69bd122173b6d1d2fcdb0344515846d14952cebba1ca232bf020f67ca24b020",
}
ALL = [(kind, version) for kind in kinds() for version in range(1, current_version(kind) + 1)]


def schema_file(kind, version):
    return files(mace_jax_schemas).joinpath(kind, f"v{version}.schema.json")


def test_every_file_on_disk_is_listed():
    on_disk = {
        (folder.name, int(file.name[1:].split(".")[0]))
        for folder in files(mace_jax_schemas).iterdir()
        if folder.is_dir()
        for file in folder.iterdir()
        if file.name.endswith(".schema.json")
    }
    assert on_disk == set(ALL) == set(RELEASED), "add the digest of a new schema to RELEASED"


@pytest.mark.parametrize(("kind", "version"), sorted(RELEASED))
def test_a_released_schema_never_changes(kind, version):
    digest = hashlib.sha256(schema_file(kind, version).read_bytes()).hexdigest()
    assert digest == RELEASED[kind, version], (
        f"{kind} v{version} is released and never changes: files of it exist. Write "
        f"v{version + 1}.schema.json and a {kind}_v{version}_to_v{version + 1} migration instead"
    )


@pytest.mark.parametrize(("kind", "version"), ALL)
def test_is_a_valid_draft_2020_12_schema(kind, version):
    schema = load_schema(kind, version)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"mace-jax:{kind}/v{version}"
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(("kind", "version"), ALL)
def test_a_misspelt_key_is_an_error_and_the_tag_is_required(kind, version):
    schema = load_schema(kind, version)
    for top in schema.get("oneOf", [schema]):
        assert top["additionalProperties"] is False
        assert set(top["required"]) <= set(top["properties"])
        if "schema" in top["properties"]:
            assert {"schema", "provenance"} <= set(top["required"])
            tag = top["properties"]["schema"]
            assert tag["properties"]["kind"]["const"] == kind
            assert tag["properties"]["version"]["const"] == version
            assert tag["additionalProperties"] is False


@pytest.mark.parametrize(("kind", "version"), [("nonsense", 1), ("dataset", 99), ("dataset", 0)])
def test_an_unknown_schema_is_a_key_error(kind, version):
    with pytest.raises(KeyError, match=kind):
        load_schema(kind, version)


def test_train_config_schema_has_exactly_the_fields_of_the_dataclasses():
    schema = load_schema("train_config", current_version("train_config"))
    sections = {field.name for field in dataclasses.fields(train_config.TrainConfig)}
    assert set(train_config.SECTIONS) == sections
    assert set(schema["properties"]) == {"schema", "provenance", *sections}
    for name, section in train_config.SECTIONS.items():
        fields = [field.name for field in dataclasses.fields(section)]
        assert list(schema["properties"][name]["properties"]) == fields
        assert schema["properties"][name]["required"] == fields
        assert schema["properties"][name]["additionalProperties"] is False
