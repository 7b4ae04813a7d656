"""What importing the package does to PEFT, and what it does not load."""

import json
import os
import pickle
import subprocess
import sys

import peft
import pytest
from peft.utils import PeftType
from transformers.integrations import PeftAdapterMixin

from conftest import llama, steered
from peft_panacea import PanaceaConfig
from peft_panacea.plugin import registration


def python(code: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


def test_the_enum_member_behaves_like_the_others():
    member = PeftType.PANACEA
    assert member == "PANACEA"
    assert member is PeftType("PANACEA") is PeftType["PANACEA"]
    assert member in list(PeftType)
    assert pickle.loads(pickle.dumps(member)) is member
    assert json.dumps(member) == '"PANACEA"'
    assert {PeftType.LORA: 1, member: 2}["PANACEA"] == 2


def test_registering_twice_does_nothing():
    methods = peft.PeftModel.__init__, peft.PeftModel.load_adapter, PeftAdapterMixin.load_adapter
    registration.register()
    assert (peft.PeftModel.__init__, peft.PeftModel.load_adapter, PeftAdapterMixin.load_adapter) == methods
    assert [m for m in PeftType if m == "PANACEA"] == [PeftType.PANACEA]


def test_other_methods_do_not_learn_the_keyword():
    lora = peft.get_peft_model(llama(), peft.LoraConfig())
    assert "preference" not in lora.special_peft_forward_args
    assert "preference" in steered(llama()).special_peft_forward_args


def test_what_only_lora_has_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'target_parameters'"):
        PanaceaConfig(target_parameters=["experts.weight"])
    with pytest.raises(ValueError, match="'PANACEA' is not compatible with the `PeftMixedModel`"):
        peft.get_peft_model(llama(), PanaceaConfig(), mixed=True)
    model = steered(llama())
    with pytest.raises(AttributeError, match="add_weighted_adapter"):
        model.add_weighted_adapter(["default"], [1.0], "other")


def test_config_is_found_by_type(tmp_path):
    PanaceaConfig().save_pretrained(tmp_path)
    assert isinstance(peft.PeftConfig.from_pretrained(tmp_path), PanaceaConfig)


def test_without_the_import_peft_does_not_know_the_method(tmp_path):
    PanaceaConfig().save_pretrained(tmp_path)
    load = f"import peft; print(type(peft.PeftConfig.from_pretrained({str(tmp_path)!r})))"
    assert "PANACEA" in python(load).stderr
    assert "PanaceaConfig" in python(f"import peft_panacea; {load}").stdout


def test_import_loads_nothing_heavy():
    heavy = {"trl", "matplotlib", "moocore", "gradio", "datasets"}
    shown = python(f"import sys, peft_panacea; print({heavy} & set(sys.modules))")
    assert shown.stdout.strip() == "set()", shown.stderr
    assert python("import sys, torch; print('torch' in sys.modules)").stdout.strip() == "True", "blind test"
