"""What the Hub's errors become, however deep they are buried."""

import pytest
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from peft_panacea.hub.reasons import in_one_sentence

WHERE = "The Hub must be reachable for `path` 'user/name', "
AWAY = f"{WHERE}but is not; HF_HUB_OFFLINE=1 makes do with what is here."


def bury(error: Exception) -> None:
    """As PEFT does it, and transformers."""
    try:
        try:
            raise error
        except Exception as first:
            raise OSError("a paragraph\n\nabout something else") from first
    except OSError:
        raise ValueError("Can't find it")  # noqa: B904  (in its context)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            HTTPError("[Errno 111] Connection refused"),
            AWAY,
        ),
        (
            LocalEntryNotFoundError("an error happened"),
            AWAY,
        ),
        (OfflineModeIsEnabled("offline"), WHERE + "which is not on this machine, but HF_HUB_OFFLINE is set."),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_hub_that_is_away(error, sentence):
    with pytest.raises(ConnectionError) as caught, in_one_sentence("`path`", "user/name"):
        bury(error)
    assert str(caught.value) == sentence


def test_what_is_not_of_the_hub_passes():
    error = ValueError("of another kind")
    with pytest.raises(ValueError, match="of another kind") as caught, in_one_sentence("`path`", "user/name"):
        raise error
    assert caught.value is error
