"""All planted mistakes."""

from tests.triton.mistakes.in_configs import CONFIG_MISTAKES
from tests.triton.mistakes.in_descriptions import DESCRIPTION_MISTAKES
from tests.triton.mistakes.in_ensemble_settings import SETTING_MISTAKES
from tests.triton.mistakes.in_ensembles import ENSEMBLE_MISTAKES
from tests.triton.mistakes.in_files import FILE_MISTAKES
from tests.triton.mistakes.in_generate import GENERATE_MISTAKES
from tests.triton.mistakes.in_python_models import PYTHON_MISTAKES
from tests.triton.mistakes.in_schedules import SCHEDULE_MISTAKES
from tests.triton.mistakes.in_signatures import SIGNATURE_MISTAKES
from tests.triton.mistakes.planting import Mistake

SECTIONS: dict[str, tuple[Mistake, ...]] = {
    "config.pbtxt": CONFIG_MISTAKES,
    "Batching and instances": SCHEDULE_MISTAKES,
    "Files": FILE_MISTAKES,
    "Ensembles": ENSEMBLE_MISTAKES,
    "Signatures": SIGNATURE_MISTAKES,
    "Python models": PYTHON_MISTAKES,
    "Shape generate": GENERATE_MISTAKES,
    "Settings of llmopt's ensembles": SETTING_MISTAKES,
    "triton.json, requirements.txt and the release": DESCRIPTION_MISTAKES,
}
MISTAKES = tuple(mistake for section in SECTIONS.values() for mistake in section)
