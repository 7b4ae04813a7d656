"""The file that is taken along is what `export_lora` writes, and is gone afterwards."""

from zipfile import ZipFile

import pytest
from safetensors.torch import load

from peft_panacea.convert import export_lora
from peft_panacea.playground.download import zipped_lora


def test_it_is_the_export(model, tmp_path):
    export_lora(model, [0.25, 0.75], tmp_path / "lora")
    with zipped_lora(model, [0.25, 0.75]) as path, ZipFile(path) as archive:
        assert path.name == "lora-0.25-0.75.zip"
        files = {file.name: file.read_bytes() for file in (tmp_path / "lora").iterdir()}
        assert set(archive.namelist()) == {f"lora/{name}" for name in files}
        for name, content in files.items():
            found = archive.read(f"lora/{name}")
            if name.endswith(".safetensors"):
                expected, tensors = load(content), load(found)
                assert all((tensors[key] == expected[key]).all() for key in expected)
            else:
                assert found == content
    assert not path.parent.exists()


def test_equal_preferences_make_equal_files(model):
    files = []
    for _ in range(2):
        with zipped_lora(model, {"b": 0.75, "a": 0.25}) as path:
            files.append(path.read_bytes())
    assert files[0] == files[1]


def test_a_wrong_preference_is_refused(model):
    with (
        pytest.raises(ValueError, match="`preference` must have 2 non-negative entries"),
        zipped_lora(model, [0.25, 0.5]),
    ):
        pass
