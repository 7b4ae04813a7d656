"""The licence of a base model is what its card says, and nothing where there is none to read."""

import pytest

from peft_panacea.licence import licence_of


@pytest.mark.parametrize(
    ("card", "found"),
    [
        ("---\nlicense: mit\n---\n# Base\n", {"license": "mit"}),
        ("---\nlicense: other\nlicense_name: x\nlicense_link: y\n---\n", "license license_name license_link"),
        ("# Base\n", {}),
        ("---\nlicense: [\n---\n# Base\n", {}),
        (None, {}),
    ],
)
def test_a_licence(card, found, tmp_path):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    licence = licence_of(str(tmp_path))
    assert licence == found or list(licence) == str(found).split()


def test_a_base_model_without_a_card_here_has_none():
    """Offline, as the tests are, also when the Hub should be asked."""
    assert licence_of("org/base") == licence_of("org/base", online=True) == licence_of("no/such/place") == {}
    assert licence_of(None) == {}
